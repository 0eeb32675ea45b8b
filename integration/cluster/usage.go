package cluster

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// memory returns a field of /proc/PID/status of a process in MB.
func memory(b *testing.B, p *Process, field string) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	n, ok := StatusField(status, field)
	if !ok {
		b.Fatalf("no %s in\n%s", field, status)
	}
	return n
}

// StatusField returns a field of the content of /proc/PID/status in MB. A process that has ended lacks the field.
func StatusField(status []byte, field string) (MB float64, ok bool) {
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, field+":"); ok {
			kB, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
			return float64(kB) / 1000, err == nil
		}
	}
	return 0, false
}
