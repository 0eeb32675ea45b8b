//go:build linux

package record

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"nfproxy/integration/machine"
)

// Begin returns a record without measurements of a run that begins now. root is the directory of the module, in whose directory .bin
// `make controlplane` has built the programs; command repeats the run.
func Begin(root, command string) (Record, error) {
	r := Record{Date: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Command: command}
	memory, err1 := machine.Memory()
	load, err2 := machine.NumberIn("/proc/loadavg")
	r.Machine = Machine{CPU: machine.Processor(), CPUs: runtime.NumCPU(), Memory: memory["MemTotal"], Kernel: machine.KernelRelease()}
	r.Load = load
	r.Versions = Versions{Nfproxy: machine.Commit(), Go: runtime.Version()}
	err := errors.Join(err1, err2)
	for _, program := range []struct {
		version        *string
		name, argument string
	}{
		{&r.Versions.KubeProxy, filepath.Join(root, ".bin/kube-proxy"), "--version"},
		{&r.Versions.Kubernetes, filepath.Join(root, ".bin/kube-apiserver"), "--version"},
		{&r.Versions.Nft, "nft", "--version"},
		{&r.Versions.Iptables, "iptables", "--version"},
	} {
		out, failed := exec.Command(program.name, program.argument).Output()
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s %s: %w", program.name, program.argument, failed))
		}
		// "Kubernetes v1.36.3", "nftables v1.0.6 (Lester Gooch #5)", "iptables v1.8.9 (nf_tables)"
		_, *program.version, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	}
	return r, err
}
