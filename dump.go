package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

func dumpCommand() *cli.Command {
	return &cli.Command{
		Name:  "dump",
		Usage: "print what the kernel has: the Services, their frontends and endpoints",
		Description: "It reads the kernel and nothing else, with or without a running nfproxy. -o json is for programs,\n" +
			"-o nft is the ruleset in nft's syntax.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table, json or nft",
				EnvVars: []string{"NFPROXY_OUTPUT"}},
		},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			printer, err := dumpPrinter(c.String("output"))
			if err != nil {
				return err
			}
			tables, err := readTables()
			if err != nil {
				return err
			}
			if len(tables) == 0 {
				fmt.Fprintln(c.App.ErrWriter, "nfproxy: there are no tables of nfproxy in this network namespace")
			}
			return printer(c.App.Writer, tables)
		},
	}
}

// readTables reads what the kernel has of our tables.
func readTables() ([]*nft.Table, error) {
	k, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	tables, _, err := k.Read(render.Tables()...)
	return tables, err
}

func dumpPrinter(format string) (func(io.Writer, []*nft.Table) error, error) {
	switch format {
	case "table":
		return dumpTable, nil
	case "json":
		return dumpJSON, nil
	case "nft":
		return dumpNFT, nil
	}
	return nil, errors.New("-o is one of table, json and nft, not " + format)
}

func dumpNFT(w io.Writer, tables []*nft.Table) error {
	for _, t := range tables {
		if _, err := io.WriteString(w, t.String()); err != nil {
			return err
		}
	}
	return nil
}

func dumpJSON(w io.Writer, tables []*nft.Table) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(render.Describe(tables))
}

// dumpTable prints a line for each frontend.
func dumpTable(w io.Writer, tables []*nft.Table) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tFRONTEND\tKIND\tACTION\tCONNECTIONS\tENDPOINTS")
	for _, s := range render.Describe(tables).Services {
		name := s.Namespace + "/" + s.Name
		if s.Port != "" {
			name += ":" + s.Port
		}
		for _, f := range s.Frontends {
			frontend := fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Address, f.Port), strings.ToLower(s.Protocol))
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", name, frontend, orDash(f.Kind), f.Action,
				count(f.Connections), endpointsColumn(f))
		}
	}
	return t.Flush()
}

// maxColumn is how many endpoints a line of the table names.
const maxColumn = 5

// endpointsColumn names a frontend's endpoints; with policy Local, then those that outsiders reach.
func endpointsColumn(f render.DescribedFrontend) string {
	text := orDash(list(f.Endpoints))
	if f.LocalEndpoints != nil {
		text += "; from outside " + orDash(list(*f.LocalEndpoints))
	}
	return text
}

func list(endpoints []render.DescribedEndpoint) string {
	var names []string
	for i, e := range endpoints {
		if i == maxColumn {
			names = append(names, fmt.Sprintf("and %d more", len(endpoints)-maxColumn))
			break
		}
		names = append(names, netip.AddrPortFrom(e.Address, e.Port).String())
	}
	return strings.Join(names, ", ")
}

func count(n *uint64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func orDash[T ~string](s T) T {
	if s == "" {
		return "-"
	}
	return s
}
