package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// outputFlag returns the flag -o of a command with the given formats, of which the first is the default. Other values are
// an error before the command's action.
func outputFlag(formats ...string) cli.Flag {
	last := len(formats) - 1
	list := strings.Join(formats[:last], ", ") + " or " + formats[last]
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: formats[0], Usage: "`FORMAT`: " + list,
		EnvVars: []string{"NFPROXY_OUTPUT"},
		Action: func(_ *cli.Context, format string) error {
			if !slices.Contains(formats, format) {
				return fmt.Errorf("-o must be %s, not %q", list, format)
			}
			return nil
		}}
}

// writeJSON prints a value as indented JSON.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // rules contain &
	return e.Encode(v)
}
