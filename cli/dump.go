package cli

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"nfproxy/config"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/report"
)

func dumpCommand() *cli.Command {
	return &cli.Command{
		Name:      "dump",
		Usage:     "print what the kernel has: the Services, their frontends and endpoints",
		ArgsUsage: "[[NAMESPACE/]NAME | ADDRESS:PORT]",
		Description: "It reads the kernel and nothing else, with or without a running nfproxy, and prints all Services, or one,\n" +
			"or the one at an address and port. -o json and yaml are for programs, -o nft is the ruleset in nft's syntax.\n" +
			"--diff compares with what run would make of the same flags: it prints what is to be done, as nft commands,\n" +
			"and ends with 1 if that is anything. --problems prints the frontends that refuse or drop, and, with a source\n" +
			"such as --kubeconfig, conflicts, addresses that are set not to be served, and differences as well.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table, wide, json, yaml or nft",
				EnvVars: []string{"NFPROXY_OUTPUT"}},
			&cli.StringFlag{Name: "family", Usage: "`FAMILY` to print: ip or ip6 (default: both)"},
			&cli.BoolFlag{Name: "problems", Usage: "print what does not work"},
			&cli.BoolFlag{Name: "diff", Usage: "print how the kernel differs from what it should have"},
		}, config.SourceFlags()...),
		Action: dumpAction,
	}
}

func dumpAction(c *cli.Context) error {
	printer, err := dumpPrinter(c.String("output"))
	if err != nil {
		return err
	}
	want, err := newSelection(c)
	if err != nil {
		return err
	}
	read := readServices
	if c.Bool("diff") || c.Bool("problems") || c.String("output") == "nft" {
		read = ReadTables
	}
	debug.SetGCPercent(dumpGarbage)
	tables, err := read()
	if err != nil {
		return err
	}
	tables = slices.DeleteFunc(tables, func(t *nft.Table) bool { return !want.families[t.Family] })
	if len(tables) == 0 {
		fmt.Fprintln(c.App.ErrWriter, "nfproxy: "+noTables)
	}
	switch {
	case c.Bool("diff"):
		return dumpDiff(c, tables)
	case c.Bool("problems"):
		return dumpProblems(c, tables, want.of(report.Describe(tables)))
	case c.String("output") == "nft" && want.some():
		return errors.New("-o nft prints the tables, not one Service")
	}
	d := want.of(report.Describe(tables))
	if want.some() && len(d.Services) == 0 {
		return fmt.Errorf("the kernel has no Service %s", c.Args().First())
	}
	return printer(c.App.Writer, tables, d)
}

// dumpGarbage is how much garbage is left lying, in percent of what is in use, by a process that ends soon.
const dumpGarbage = 200

// noTables is said where there is nothing to read.
const noTables = "there are no tables of nfproxy in this network namespace"

// readTables reads what the kernel has of our tables.
func ReadTables() ([]*nft.Table, error) {
	k, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	tables, _, err := k.Read(render.TableIDs()...)
	return tables, err
}

// readServices reads what render.Describe needs of them, which takes less time where there are many Services.
func readServices() ([]*nft.Table, error) {
	var k [2]*kernel.Conn
	for i := range k {
		var err error
		if k[i], err = kernel.Open(); err != nil {
			return nil, err
		}
		defer k[i].Close()
	}
	return k[0].ReadReferenced(k[1], report.DescribedSets(), report.Slots, render.TableIDs()...)
}

// printer prints tables, or what is to be printed of their description.
type printer func(io.Writer, []*nft.Table, report.Description) error

func dumpPrinter(format string) (printer, error) {
	switch format {
	case "table":
		return report.WriteTable, nil
	case "wide":
		return report.WriteWide, nil
	case "json":
		return report.WriteJSON, nil
	case "yaml":
		return dumpYAML, nil
	case "nft":
		return dumpNFT, nil
	}
	return nil, errors.New("-o is one of table, wide, json, yaml and nft, not " + format)
}

func dumpNFT(w io.Writer, tables []*nft.Table, _ report.Description) error {
	for _, t := range tables {
		if _, err := io.WriteString(w, t.String()); err != nil {
			return err
		}
	}
	return nil
}

func dumpYAML(w io.Writer, _ []*nft.Table, d report.Description) error {
	text, err := yaml.Marshal(d)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}
