package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/config"
	"nfproxy/nft"
	"nfproxy/render"

	"nfproxy/report"
)

func explainCommand() *cli.Command {
	own := []cli.Flag{
		&cli.StringFlag{Name: "from", Usage: "`SOURCE[%INTERFACE]`, the client's address and where it comes in by (default: this node)"},
		&cli.StringFlag{Name: "to", Usage: "`ADDRESS:PORT[/PROTOCOL]`, or [NAMESPACE/]SERVICE[:PORT[/PROTOCOL]] for its cluster IP"},
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"},
	}
	return &cli.Command{
		Name:  "explain",
		Usage: "say what becomes of a connection, and why: which endpoints, with which chance, masqueraded or not",
		Description: "It reads the kernel and nothing else. Where a source of Services is named as for nfproxy run, it says\n" +
			"of every endpoint why it is chosen or not, and whether the kernel has what it should have.",
		Flags:  append(own, config.SourceFlags()...),
		Before: noArguments,
		Action: explainAction,
	}
}

func explainAction(c *cli.Context) error {
	printer, err := explainPrinter(c.String("output"))
	if err != nil {
		return err
	}
	to, err := parseTarget(c.String("to"))
	if err != nil {
		return err
	}
	from, err := parseClient(c.String("from"))
	if err != nil {
		return err
	}
	tables, err := ReadTables()
	if err != nil {
		return err
	}
	if err := checkTables(tables); err != nil {
		return err
	}
	if to, err = to.resolve(tables, from.addr); err != nil {
		return err
	}
	packet, remarks, err := from.packet(to)
	if err != nil {
		return err
	}
	if tableOf(tables, packet.Destination.Addr()) == nil {
		return fmt.Errorf("there is no table %s nfproxy in this network namespace: connections to %s have nothing to do with Services here",
			render.Family(packet.Destination.Addr()), packet.Destination.Addr())
	}
	e := report.Explain(tables, packet)
	e.Problems = append(e.Problems, remarks...)
	if !from.addr.IsValid() {
		e.From.Why = "the default, --from says another source"
	}
	if err := expect(c, tables, &e); err != nil {
		return err
	}
	return printer(c.App.Writer, e)
}

// checkTables returns an error if there is nothing to explain, or nothing that can be.
func checkTables(tables []*nft.Table) error {
	if len(tables) == 0 {
		return errors.New(noTables + ": nfproxy run makes them")
	}
	for _, t := range tables {
		if err := render.CheckSchema(t); err != nil {
			return err
		}
	}
	return nil
}

// expect asks the source of Services that flags name, if any does.
func expect(c *cli.Context, tables []*nft.Table, e *report.Explanation) error {
	if !namesSource(c) {
		return nil
	}
	u, err := ask(c)
	if err != nil {
		return err
	}
	expected := report.Expect(u, tables, *e)
	e.Expected = &expected
	return nil
}

func explainPrinter(format string) (func(io.Writer, report.Explanation) error, error) {
	switch format {
	case "text":
		return report.WriteExplanation, nil
	case "json":
		return explainJSON, nil
	}
	return nil, fmt.Errorf("-o is one of text and json, not %s", format)
}

func explainJSON(w io.Writer, e report.Explanation) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false) // rules have & in them
	return out.Encode(e)
}
