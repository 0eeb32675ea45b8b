package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// documentedCommand is a command for docs/cli.md and shell completion.
type documentedCommand struct {
	*cli.Command
	Choices []string // the words that its argument is one of, if it is
	Flags   []documentedFlag
}

// documentedFlag is a flag that is not hidden.
type documentedFlag struct{ cli.DocGenerationFlag }

// documented lists the commands with their flags, except --help, which all have.
func documented(app *cli.App) []documentedCommand {
	var all []documentedCommand
	for _, c := range app.VisibleCommands() {
		d := documentedCommand{Command: c, Choices: choices(c)}
		for _, f := range c.VisibleFlags() {
			if flag, ok := f.(cli.DocGenerationFlag); ok && f != cli.HelpFlag {
				d.Flags = append(d.Flags, documentedFlag{flag})
			}
		}
		all = append(all, d)
	}
	return all
}

// Dashed returns the flag's names with their dashes.
func (f documentedFlag) Dashed() []string {
	var all []string
	for _, name := range f.Names() {
		if len(name) == 1 {
			all = append(all, "-"+name)
		} else {
			all = append(all, "--"+name)
		}
	}
	return all
}

// Usage returns the flag's usage as one line, without the backquotes around the value's name.
func (f documentedFlag) Usage() string {
	return strings.NewReplacer("`", "", "\n", " ").Replace(f.GetUsage())
}
