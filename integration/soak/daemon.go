//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	metricsAddr   = "127.0.0.1:10249"
	healthAddr    = "127.0.0.1:10256"
	syncTimeout   = 10 * time.Minute // for the first programming after a start
	leastRestarts = 2                // one of each kind
	gracePeriod   = 30 * time.Second // a kubelet's default
)

// daemon is the nfproxy process. Its methods start and stop it; one goroutine calls them.
type daemon struct {
	program, manifests, config string
	log                        *daemonLog
	profiling                  bool
	restarts, kills            atomic.Int64 // restarts, and those of them that needed SIGKILL
	lastRestart                atomic.Int64 // nanoseconds that the last restart took, until everything was programmed

	mu      sync.Mutex
	command *exec.Cmd
	ended   chan error
}

func newDaemon(program, dir string, log io.Writer) (*daemon, error) {
	d := &daemon{program: program, manifests: filepath.Join(dir, "manifests"), config: filepath.Join(dir, "config.yaml"),
		log: &daemonLog{w: log, counts: make(map[string]int)}}
	return d, d.writeConfig()
}

// args are the flags of all commands that read the desired state.
func (d *daemon) args() []string {
	return []string{"--manifests", d.manifests, "--config", d.config, "--hostname-override", nodeName,
		"--service-cidr", serviceNetworks[0].String() + "," + serviceNetworks[1].String()}
}

// writeConfig writes the configuration. A change of enableProfiling makes nfproxy restart itself.
func (d *daemon) writeConfig() error {
	text := fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: %s,%s
metricsBindAddress: %s
healthzBindAddress: %s
enableProfiling: %t
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, podNetworks[0], podNetworks[1], metricsAddr, healthAddr, d.profiling)
	return os.WriteFile(d.config, []byte(text), 0o644)
}

// start starts the process and waits until it has programmed everything.
func (d *daemon) start(ctx context.Context) error {
	synced := d.log.count("in sync")
	command := exec.Command(d.program, append([]string{"run"}, d.args()...)...)
	command.Stdout, command.Stderr = d.log, d.log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel sends the death signal when the thread that started the process ends
		err := command.Start()
		started <- err
		if err == nil {
			ended <- command.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	d.mu.Lock()
	d.command, d.ended = command, ended
	d.mu.Unlock()
	return d.await(ctx, "in sync", synced)
}

// stop ends the process with SIGTERM, and with SIGKILL if it still runs after the grace period, as a kubelet does. It returns
// an error unless the process was killed or exits with status 0.
func (d *daemon) stop() error {
	if err := d.command.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop nfproxy: %w", err)
	}
	select {
	case err := <-d.ended:
		d.ended <- err
		if err != nil {
			return fmt.Errorf("nfproxy after SIGTERM: %w", err)
		}
		return nil
	case <-time.After(gracePeriod):
	}
	d.kills.Add(1)
	if err := d.command.Process.Kill(); err != nil {
		return fmt.Errorf("kill nfproxy: %w", err)
	}
	d.ended <- <-d.ended
	return nil
}

// reconfigure changes the configuration, so that nfproxy executes itself again, and waits until it has programmed everything.
func (d *daemon) reconfigure(ctx context.Context) error {
	synced := d.log.count("in sync")
	d.profiling = !d.profiling
	if err := d.writeConfig(); err != nil {
		return err
	}
	return d.await(ctx, "in sync", synced)
}

// await waits until a message is in the log more often than before.
func (d *daemon) await(ctx context.Context, message string, before int) error {
	for deadline := time.Now().Add(syncTimeout); d.log.count(message) <= before; {
		select {
		case err := <-d.ended:
			d.ended <- err
			return fmt.Errorf("nfproxy ended: %v", err)
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nfproxy does not log %q within %v", message, syncTimeout)
		}
	}
	return nil
}

// restartFor restarts the process at an interval, by SIGTERM and by a changed configuration in turn, for a time and at least
// once each, and then leaves it alone until ctx ends. It returns an error if the process ends by itself.
func (d *daemon) restartFor(ctx context.Context, restarting, interval time.Duration) error {
	begun := time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for reexec := false; ; reexec = !reexec {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.ended:
			d.ended <- err
			return fmt.Errorf("nfproxy ended: %v", err)
		case <-tick.C:
		}
		start := time.Now()
		if err := d.restart(ctx, reexec); err != nil {
			return err
		}
		d.lastRestart.Store(int64(time.Since(start)))
		if d.restarts.Add(1) >= leastRestarts && time.Since(begun)+interval > restarting {
			tick.Stop()
		}
	}
}

// restart restarts the process, and returns when it has programmed everything.
func (d *daemon) restart(ctx context.Context, reexec bool) error {
	if reexec {
		return d.reconfigure(ctx)
	}
	if err := d.stop(); err != nil {
		return err
	}
	return d.start(ctx)
}

// pid returns the number of the process.
func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.command.Process.Pid
}

// differences returns what nfproxy dump --diff prints: the changes from the kernel's tables to the desired state. It is empty
// if they agree.
func (d *daemon) differences() (string, error) {
	out, err := exec.Command(d.program, append([]string{"dump", "--diff"}, d.args()...)...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return string(out), nil
	}
	if err != nil {
		return "", fmt.Errorf("nfproxy dump --diff: %w\n%s", err, out)
	}
	return "", nil
}

// daemonLog counts the log lines of nfproxy by message and passes them on.
type daemonLog struct {
	mu     sync.Mutex
	w      io.Writer
	rest   []byte
	counts map[string]int
}

var messageOf = regexp.MustCompile(`level=(\S+) msg=(?:"((?:[^"\\]|\\.)+)"|(\S+))`)

func (l *daemonLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, text...)
	for {
		line, rest, complete := bytes.Cut(l.rest, []byte("\n"))
		if !complete {
			return l.w.Write(text)
		}
		l.rest = rest
		if m := messageOf.FindSubmatch(line); m != nil {
			l.counts[string(m[2])+string(m[3])]++
		}
	}
}

// count returns how often a message was logged.
func (l *daemonLog) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[message]
}

// messages returns how often each message was logged.
func (l *daemonLog) messages() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
}
