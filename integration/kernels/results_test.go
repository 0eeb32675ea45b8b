package main

import (
	"slices"
	"strings"
	"testing"
)

// output returns what a machine writes whose package p has the given output of go test -v=test2json and exit status. ^ stands
// for the byte that marks a line of the test framework.
func output(lines, status string) []byte {
	return []byte(strings.ReplaceAll("kernel 6.1.0\npackage p\n"+lines+"\nexit "+status+"\nend after 12.5 s\n", "^", "\x16"))
}

// TestRead: every test is counted once, a skip has its reason, and whatever lacks an end is a failure.
func TestRead(t *testing.T) {
	const passes = "^=== RUN   TestA\n^--- PASS: TestA (0.10s)\n^PASS\n"
	for name, c := range map[string]struct {
		output  []byte
		passed  int
		skipped []string
		failed  []string
	}{
		"passed": {output(passes, "0"), 1, nil, nil},
		"subtests count with their test": {output("^=== RUN   TestA\n^=== RUN   TestA/b\n^--- PASS: TestA/b (0.10s)\n^--- PASS: TestA (0.10s)\n^PASS\n", "0"),
			1, nil, nil},
		"skipped": {output("^=== RUN   TestA\n    a_test.go:21: needs a kernel with SCTP\n^--- SKIP: TestA (0.00s)\n^PASS\n", "0"),
			0, []string{"TestA: needs a kernel with SCTP"}, nil},
		"failed": {output("^=== RUN   TestA\n    a_test.go:21: got 1\n^--- FAIL: TestA (0.00s)\n^FAIL\n", "1"),
			0, nil, []string{"TestA: got 1", "p: exit status 1"}},
		"another test":   {output(strings.ReplaceAll(passes, "TestA", "TestB"), "0"), 1, nil, []string{"TestA: did not run"}},
		"panic":          {output("^=== RUN   TestA\npanic: oh\n", "2"), 0, nil, []string{"TestA: did not end", "p: exit status 2"}},
		"stopped":        {[]byte("kernel 6.1.0\npackage p\n\x16=== RUN   TestA\n"), 0, nil, []string{"TestA: did not end", "the machine did not come to the end of the tests"}},
		"nothing ran":    {[]byte("kernel 6.1.0\nend after 1 s\n"), 0, nil, []string{"p: did not run"}},
		"kernel crashed": {nil, 0, nil, []string{"p: did not run", "the machine did not come to the end of the tests"}},
	} {
		r, err := read(c.output, []selection{{dir: "p", tests: []string{"TestA"}}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		slices.Sort(r.failed)
		slices.Sort(c.failed)
		if r.passed != c.passed || !slices.Equal(r.skipped, c.skipped) || !slices.Equal(r.failed, c.failed) {
			t.Errorf("%s: got %d passed, skipped %q, failed %q; want %d, %q, %q", name, r.passed, r.skipped, r.failed, c.passed, c.skipped, c.failed)
		}
	}
}

// TestReadOnly: a skip fails if the test runs nowhere else, be it a whole test or a part.
func TestReadOnly(t *testing.T) {
	const skips = "^=== RUN   TestA\n^=== RUN   TestA/b\n    a_test.go:21: no machine\n^--- SKIP: TestA/b (0.10s)\n^--- PASS: TestA (0.10s)\n^PASS\n"
	for _, only := range []bool{false, true} {
		r, err := read(output(skips, "0"), []selection{{dir: "p", tests: []string{"TestA"}, only: only}})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"TestA/b: no machine"}
		if got := map[bool][]string{false: r.skipped, true: r.failed}[only]; !slices.Equal(got, want) || len(r.skipped)+len(r.failed) != 1 {
			t.Errorf("only %t: skipped %q, failed %q", only, r.skipped, r.failed)
		}
	}
}

// TestPattern: the pattern selects whole names, subtests by theirs.
func TestPattern(t *testing.T) {
	s := selection{dir: "p", tests: []string{"TestA", "TestB/(x|y)/z"}}
	if got, want := s.pattern(), "^TestA$|^TestB$/^(x|y)$/^z$"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestChoose: flags choose packages and tests of the list.
func TestChoose(t *testing.T) {
	got := choose("integration/kernel", "^TestOracle")
	if len(got) != 1 || !slices.Equal(got[0].tests, []string{"TestOracleText", "TestOracleListing"}) {
		t.Errorf("got %v", got)
	}
	if got := choose("", ""); len(got) != len(selections) {
		t.Errorf("%d of %d packages are chosen", len(got), len(selections))
	}
}
