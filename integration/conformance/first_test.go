//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// first is the first process of a host: it arranges the mounts, starts the programs and collects processes that have ended. It returns
// when one of the daemons ends, which none should, or the only program.
func first(config hostConfig) (int, error) {
	if err := arrangeMounts(config); err != nil {
		return 1, err
	}
	collect := &collector{waiting: make(map[int]chan unix.WaitStatus)}
	go collect.run()
	if config.Once != nil {
		ended, err := collect.start(config, *config.Once)
		if err != nil {
			return 1, err
		}
		fmt.Println("ready")
		status := <-ended
		return status.ExitStatus(), nil
	}
	return 1, runDaemons(config, collect)
}

// runDaemons starts the daemons and returns when one of them ends. Images are imported before the last one starts.
func runDaemons(config hostConfig, collect *collector) error {
	ends := make(chan error)
	for i, d := range config.Daemons {
		if i == len(config.Daemons)-1 {
			if err := importImages(config, collect); err != nil {
				return err
			}
		}
		ended, err := collect.start(config, d)
		if err != nil {
			return err
		}
		go func() {
			status := <-ended
			ends <- fmt.Errorf("%s has ended with status %d", d.Name, status.ExitStatus())
		}()
		if err := awaitSocket(d.Socket, ends); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	return <-ends
}

// importImages gives containerd the images in the archives.
func importImages(config hostConfig, collect *collector) error {
	for _, archive := range config.Imports {
		ctr := program{Name: "import", Args: []string{containerdProgram("usr/bin/ctr"), "--address", containerdSocket, "--namespace", "k8s.io", "images", "import", archive}}
		ended, err := collect.start(config, ctr)
		if err != nil {
			return err
		}
		if status := <-ended; status.ExitStatus() != 0 {
			return fmt.Errorf("import %s: status %d", archive, status.ExitStatus())
		}
	}
	return nil
}

// awaitSocket waits until a socket accepts connections. Without a path it does not wait.
func awaitSocket(path string, ends <-chan error) error {
	if path == "" {
		return nil
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-ends:
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s accepts no connections", path)
}

// collector starts processes and waits for all processes that this first process of a process namespace inherits (wait(2)).
type collector struct {
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus
}

// start starts a program; the channel gets its status when it has ended.
func (c *collector) start(config hostConfig, p program) (<-chan unix.WaitStatus, error) {
	log, err := os.OpenFile(filepath.Join(config.Dir, p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(p.Args[0], p.Args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   p.Env,
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Args[0], err)
	}
	ended := make(chan unix.WaitStatus, 1)
	c.waiting[pid] = ended
	return ended, nil
}

func (c *collector) run() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			continue
		}
		c.mu.Lock()
		if ended, ok := c.waiting[pid]; ok {
			ended <- status
			delete(c.waiting, pid)
		}
		c.mu.Unlock()
	}
}
