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
	want := commandsDocument(newApp("unknown", io.Discard, io.Discard, nil), newPluginApp("unknown", io.Discard, io.Discard))
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
func commandsDocument(app, plugin *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The command line\n\nnfproxy: %s. This document is generated from the commands (`TestCommandsDocument`) and\n"+
		"has the text of `--help`. For the flags of `run` and kube-proxy's configuration see [configuration.md](configuration.md).\n", app.Usage)
	commandSections(&b, app, "##", "nfproxy")
	fmt.Fprintf(&b, "\n## kubectl nfproxy\n\nBy the name kubectl-nfproxy the program is a kubectl plugin: %s. See [kubectl-plugin.md](kubectl-plugin.md).\n", plugin.Usage)
	commandSections(&b, plugin, "###", plugin.Name)
	return b.String()
}

// commandSections writes a section for each command of a program.
func commandSections(b *strings.Builder, app *cli.App, level, program string) {
	for _, c := range documented(app) {
		title := c.Name
		if level != "##" {
			title = program + " " + c.Name
		}
		fmt.Fprintf(b, "\n%s %s\n\n    %s %s", level, title, program, c.Name)
		if len(c.Flags) > 0 {
			b.WriteString(" [FLAGS]")
		}
		if c.ArgsUsage != "" {
			b.WriteString(" " + c.ArgsUsage)
		}
		fmt.Fprintf(b, "\n\n%s.\n", strings.ToUpper(c.Usage[:1])+c.Usage[1:])
		if c.Description != "" {
			fmt.Fprintf(b, "\n%s\n", c.Description)
		}
		if len(c.Flags) > 0 {
			b.WriteString("\n| flag | meaning |\n|---|---|\n")
		}
		for _, f := range c.Flags {
			names, meaning, _ := strings.Cut(cli.FlagStringer(f.DocGenerationFlag), "\t")
			fmt.Fprintf(b, "| `%s` | %s |\n", names, strings.NewReplacer("|", `\|`, "\n", " ").Replace(strings.TrimSpace(meaning)))
		}
	}
}
