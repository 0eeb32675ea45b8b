package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

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

// writeJSON prints a value as indented JSON. It escapes the control characters that JSON allows in strings: DEL and those from U+0080 to
// U+009F, which control some terminals.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // rules contain &
	if err := e.Encode(v); err != nil {
		return err
	}
	text := regexp.MustCompile("[\x7f-\u009f]").ReplaceAllFunc(b.Bytes(), func(c []byte) []byte {
		r, _ := utf8.DecodeRune(c)
		return fmt.Appendf(nil, `\u%04x`, r)
	})
	_, err := w.Write(text)
	return err
}
