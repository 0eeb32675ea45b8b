package cli

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "rewrite docs/cli.md; review the diff before committing it")

// TestCommandsDocument: docs/cli.md matches the commands and flags; -update rewrites it.
func TestCommandsDocument(t *testing.T) {
	const file = "../docs/cli.md"
	want := commandsDocument(newApp("unknown", io.Discard, io.Discard, nil))
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(is), want); diff != "" {
		t.Errorf("%s does not match the commands; go test ./cli -run TestCommandsDocument -update rewrites it (-is +should be):\n%s", file, diff)
	}
}

// commandsDocument returns the text of docs/cli.md.
func commandsDocument(app *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The command line\n\nnfproxy: %s. This document is generated from the commands (`TestCommandsDocument`) and\n"+
		"has the text of `--help`. For the flags of `run` and kube-proxy's configuration see [configuration.md](configuration.md).\n", app.Usage)
	for _, c := range documented(app) {
		fmt.Fprintf(&b, "\n## %s\n\n    nfproxy %s", c.Name, c.Name)
		if len(c.Flags) > 0 {
			b.WriteString(" [FLAGS]")
		}
		if c.ArgsUsage != "" {
			b.WriteString(" " + c.ArgsUsage)
		}
		fmt.Fprintf(&b, "\n\n%s.\n", strings.ToUpper(c.Usage[:1])+c.Usage[1:])
		if c.Description != "" {
			fmt.Fprintf(&b, "\n%s\n", c.Description)
		}
		if len(c.Flags) > 0 {
			b.WriteString("\n| flag | meaning |\n|---|---|\n")
		}
		for _, f := range c.Flags {
			names, meaning, _ := strings.Cut(cli.FlagStringer(f.DocGenerationFlag), "\t")
			fmt.Fprintf(&b, "| `%s` | %s |\n", names, strings.NewReplacer("|", `\|`, "\n", " ").Replace(strings.TrimSpace(meaning)))
		}
	}
	return b.String()
}
