package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// results is the directory for outputs, in the root of the repository.
const results = "dist/kernels"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := flag.String("run", "", "run only the tests of which this pattern, as of go test -run, matches the name; empty means all in tests.go")
	dir := flag.String("dir", "", "run only the tests of the package in this directory")
	atMost := flag.Duration("timeout", time.Hour, "how long a machine may run")
	parallel := flag.Int("parallel", 2, "how many machines run at a time; each uses one processor")
	flag.Parse()
	if err := test(ctx, flag.Args(), choose(*dir, *run), *atMost, *parallel); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// test runs tests on kernels and prints the reports. Its error tells whether a kernel failed.
func test(ctx context.Context, kernels []string, selected []selection, atMost time.Duration, parallel int) error {
	if len(kernels) == 0 || len(selected) == 0 {
		return fmt.Errorf("%d kernels and %d packages to test", len(kernels), len(selected))
	}
	if err := os.MkdirAll(results, 0o755); err != nil {
		return err
	}
	tests, err := os.MkdirTemp("", "nfproxy-kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tests)
	if err := build(ctx, tests, selected); err != nil {
		return err
	}
	var wg sync.WaitGroup
	var failed sync.Map
	slots := make(chan struct{}, parallel)
	for _, name := range kernels {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			start := time.Now()
			r, err := testOn(ctx, machine{name: name, atMost: atMost}, tests, selected)
			if err != nil {
				r.failed = append(r.failed, err.Error())
			}
			if len(r.failed) > 0 {
				failed.Store(name, true)
			}
			fmt.Printf("%s (%s), %.0f s: %s", name, debianVersion(name), time.Since(start).Seconds(), r)
		})
	}
	wg.Wait()
	var names []string
	for _, name := range kernels {
		if _, ok := failed.Load(name); ok {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("tests failed on %s; see %s", strings.Join(names, ", "), results)
	}
	return nil
}

// build builds the test binaries, which need no libraries, and writes their list.
func build(ctx context.Context, dir string, selected []selection) error {
	var list strings.Builder
	for _, s := range selected {
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags", "-s -w", "-o", filepath.Join(dir, s.binary()), "./"+s.dir)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the tests of %s: %w\n%s", s.dir, err, out)
		}
		fmt.Fprintln(&list, s.binary(), s.dir, s.pattern())
	}
	return os.WriteFile(filepath.Join(dir, "list"), []byte(list.String()), 0o644)
}

// testOn runs tests in a machine.
func testOn(ctx context.Context, m machine, tests string, selected []selection) (report, error) {
	initramfs := filepath.Join(results, m.name+".initramfs")
	defer os.Remove(initramfs)
	cmd := exec.CommandContext(ctx, "integration/kernels/initramfs", m.packages(), tests, initramfs)
	if out, err := cmd.CombinedOutput(); err != nil {
		return report{}, fmt.Errorf("make the root file system: %w\n%s", err, out)
	}
	output, runErr := m.run(ctx, initramfs)
	r, err := read(output, selected)
	if err != nil {
		return report{}, err
	}
	return r, runErr
}

// debianVersion returns the version of the kernel's package.
func debianVersion(name string) string {
	b, err := os.ReadFile(filepath.Join(machine{name: name}.packages(), "packages"))
	if err != nil {
		return "unknown version"
	}
	for line := range strings.Lines(string(b)) {
		if version, ok := strings.CutPrefix(line, "linux-image-amd64 "); ok {
			return strings.TrimSpace(version)
		}
	}
	return "unknown version"
}
