package cli

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/urfave/cli/v2"
)

// shellScripts complete commands and flags, a template for each shell.
//
//go:embed completion
var shellScripts embed.FS

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes commands and flags in a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "For bash: source <(nfproxy completion bash). The script says where to put it to have it always. It knows the\n" +
			"commands of the nfproxy that printed it.",
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			if c.NArg() != 1 || !slices.Contains(choices(c.Command), shell) {
				return fmt.Errorf("completion takes one of bash, zsh and fish, not %q", strings.Join(c.Args().Slice(), " "))
			}
			script, err := template.New("").Funcs(template.FuncMap{"quote": quoteShell}).ParseFS(shellScripts, "completion/*.tmpl")
			if err != nil {
				return err
			}
			return script.ExecuteTemplate(c.App.Writer, shell+".tmpl", documented(c.App))
		},
	}
}

// choices are the words that a command's argument is one of, none if it can be something else.
func choices(c *cli.Command) []string {
	if !strings.Contains(c.ArgsUsage, "|") || strings.ContainsAny(c.ArgsUsage, " []") {
		return nil
	}
	return strings.Split(c.ArgsUsage, "|")
}

// quoteShell makes a text one word for bash, zsh and fish.
func quoteShell(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
