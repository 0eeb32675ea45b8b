package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
)

// A report holds what the tests of one machine resulted in.
type report struct {
	kernel  string   // its release
	passed  int      // top-level tests
	skipped []string // names of tests and subtests, with the reasons
	failed  []string // names of tests and subtests, and problems of whole packages
	seconds string   // on the machine's clock
}

// An event is one line of go tool test2json.
type event struct {
	Action, Test, Output string
}

// reason matches the line that t.Skip prints.
var reason = regexp.MustCompile(`^\s+\w+\.go:\d+: (.*)\n`)

// read reads the output of a machine. Everything that should be there and is not is a failure: packages, the end of a test, a
// test for each name in the selections.
func read(output []byte, wanted []selection) (report, error) {
	var r report
	parts := make(map[string]string) // the output of each package
	var dir string
	sc := bufio.NewScanner(bytes.NewReader(output))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		line := sc.Text()
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case dir == "" && word == "kernel":
			r.kernel = rest
		case dir == "" && word == "package":
			dir = rest
			parts[dir] = ""
		case dir == "" && word == "end":
			r.seconds = strings.TrimSuffix(strings.TrimPrefix(rest, "after "), " s")
		case dir != "" && word == "exit":
			if rest != "0" {
				r.failed = append(r.failed, fmt.Sprintf("%s: exit status %s", dir, rest))
			}
			dir = ""
		case dir != "":
			parts[dir] += line + "\n"
		}
	}
	if r.seconds == "" {
		r.failed = append(r.failed, "the machine did not come to the end of the tests")
	}
	for _, s := range wanted {
		text, ok := parts[s.dir]
		if !ok {
			r.failed = append(r.failed, s.dir+": did not run")
			continue
		}
		if err := r.readPackage(s, text); err != nil {
			return report{}, err
		}
	}
	return r, sc.Err()
}

// readPackage adds the results of a package.
func (r *report) readPackage(s selection, text string) error {
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go tool test2json: %w", err)
	}
	said := make(map[string]string)
	running := make(map[string]bool)
	ran := make(map[string]bool)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e event
		if err := d.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if e.Test == "" {
			continue
		}
		top := !strings.Contains(e.Test, "/")
		switch e.Action {
		case "run":
			running[e.Test], ran[e.Test] = true, true
		case "output":
			if m := reason.FindStringSubmatch(e.Output); m != nil {
				said[e.Test] = m[1]
			}
		case "pass":
			if top {
				r.passed++
			}
		case "skip":
			if line := fmt.Sprintf("%s: %s", e.Test, said[e.Test]); s.only {
				r.failed = append(r.failed, line)
			} else {
				r.skipped = append(r.skipped, line)
			}
		case "fail":
			r.failed = append(r.failed, fmt.Sprintf("%s: %s", e.Test, said[e.Test]))
		}
		if e.Action == "pass" || e.Action == "skip" || e.Action == "fail" {
			delete(running, e.Test)
		}
	}
	for name := range running {
		r.failed = append(r.failed, name+": did not end")
	}
	for _, name := range s.tests {
		if top, _, _ := strings.Cut(name, "/"); !ran[top] {
			r.failed = append(r.failed, top+": did not run")
		}
	}
	return nil
}

// String returns the line of the machine, and one for each test that did not pass.
func (r report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s: %d tests passed, %d skipped, %d failed, %s s of the machine's time\n",
		r.kernel, r.passed, len(r.skipped), len(r.failed), r.seconds)
	for _, s := range r.skipped {
		fmt.Fprintf(&b, "    skipped %s\n", s)
	}
	for _, f := range r.failed {
		fmt.Fprintf(&b, "    FAILED %s\n", f)
	}
	return b.String()
}
