package cli

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/urfave/cli/v2"
)

// shellScripts has a template of the completion script for each shell.
//
//go:embed completion
var shellScripts embed.FS

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes commands and flags in a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "For bash: source <(nfproxy completion bash). A comment in the script says where to install it permanently. It\n" +
			"completes the commands and flags of the version that printed it.",
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			if c.NArg() != 1 || !slices.Contains(choices(c.Command), shell) {
				return fmt.Errorf("completion takes one argument, bash, zsh or fish, not %q", strings.Join(c.Args().Slice(), " "))
			}
			script, err := template.New("").Funcs(template.FuncMap{"quote": quoteShell}).ParseFS(shellScripts, "completion/*.tmpl")
			if err != nil {
				return err
			}
			return script.ExecuteTemplate(c.App.Writer, shell+".tmpl", documented(c.App))
		},
	}
}

// choices returns the words that a command accepts as its argument, none if the argument is free.
func choices(c *cli.Command) []string {
	if !strings.Contains(c.ArgsUsage, "|") || strings.ContainsAny(c.ArgsUsage, " []") {
		return nil
	}
	return strings.Split(c.ArgsUsage, "|")
}

// quoteShell quotes a text as one word for bash, zsh and fish.
func quoteShell(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
