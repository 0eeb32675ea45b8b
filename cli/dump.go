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
	"nfproxy/report"
)

func dumpCommand() *cli.Command {
	return &cli.Command{
		Name:      "dump",
		Usage:     "print the Services, frontends and endpoints in the kernel",
		ArgsUsage: targetArgument,
		Description: "dump reads the kernel's tables and needs no running nfproxy. It prints all Services, or those that the\n" +
			"argument selects; the namespace is default unless given. -o json and -o yaml are for programs; -o nft prints the\n" +
			"ruleset in nft syntax. --diff compares the tables with what nfproxy run would program with the same flags: it\n" +
			"prints the changes to make as nft commands, and the exit code is 1 if there are any. --problems prints the\n" +
			"frontends that refuse or drop connections; with a source of Services, such as --kubeconfig, it also prints\n" +
			"conflicts, disallowed addresses, Services that are too large and differences from the\n" +
			"desired state.",
		Flags: append([]cli.Flag{
			outputFlag("table", "wide", "json", "yaml", "nft"),
			&cli.StringFlag{Name: "family", Usage: "address `FAMILY` to print: ip or ip6 (default: both)"},
			&cli.BoolFlag{Name: "problems", Usage: "print frontends that do not serve, conflicts and differences"},
			&cli.BoolFlag{Name: "diff", Usage: "print the changes from the kernel's tables to the desired state"},
		}, config.SourceFlags()...),
		Action: dumpAction,
	}
}

func dumpAction(c *cli.Context) error {
	families, err := familiesOfFlag(c)
	if err != nil {
		return err
	}
	instance, err := config.InstanceOf(c)
	if err != nil {
		return err
	}
	target, err := targetOfArgument(c)
	if err != nil {
		return err
	}
	format := c.String("output")
	read := readDescribed
	if c.Bool("diff") || c.Bool("problems") || format == "nft" {
		read = readTables
	}
	debug.SetGCPercent(dumpGarbagePercent)
	tables, err := read(instance)
	if err != nil {
		return err
	}
	tables = slices.DeleteFunc(tables, func(t *nft.Table) bool { return !slices.Contains(families, t.Family) })
	if len(tables) == 0 {
		fmt.Fprintf(c.App.ErrWriter, "nfproxy: %v\n", report.NoTablesError(instance))
	}
	switch {
	case c.Bool("diff"):
		return dumpDiff(c, tables)
	case c.Bool("problems"):
		return dumpProblems(c, tables, target)
	case format == "nft" && target != report.Target{}:
		return errors.New("-o nft prints whole tables and takes no argument")
	case format == "nft":
		return dumpNFT(c.App.Writer, tables)
	}
	d, err := target.Select(report.Describe(tables))
	if err != nil {
		return err
	}
	return dumpDescription(c.App.Writer, format, d)
}

// dumpGarbagePercent is the GC percentage of dump. The process ends soon, so it trades memory for time.
const dumpGarbagePercent = 200

// familiesOfFlag parses the flag --family.
func familiesOfFlag(c *cli.Context) ([]nft.Family, error) {
	switch family := c.String("family"); family {
	case "":
		return []nft.Family{nft.IPv4, nft.IPv6}, nil
	case "ip":
		return []nft.Family{nft.IPv4}, nil
	case "ip6":
		return []nft.Family{nft.IPv6}, nil
	default:
		return nil, fmt.Errorf("--family must be ip or ip6, not %q", family)
	}
}

func dumpDescription(w io.Writer, format string, d report.Description) error {
	switch format {
	case "wide":
		return report.WriteWide(w, d)
	case "json":
		return report.WriteJSON(w, d)
	case "yaml":
		text, err := yaml.Marshal(d)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	return report.WriteTable(w, d)
}

func dumpNFT(w io.Writer, tables []*nft.Table) error {
	for _, t := range tables {
		if _, err := io.WriteString(w, t.String()); err != nil {
			return err
		}
	}
	return nil
}

// errDiffers is the error of dump --diff if there are changes to make.
var errDiffers = errors.New("the kernel's tables differ from the desired state")

// dumpDiff prints the changes that turn the tables into the desired state, as nft commands.
func dumpDiff(c *cli.Context, tables []*nft.Table) error {
	desired, err := desiredState(c)
	if err != nil {
		return err
	}
	changes := report.Compare(desired, tables).Changes
	for _, change := range changes {
		fmt.Fprintln(c.App.Writer, change)
	}
	if len(changes) > 0 {
		return errDiffers
	}
	return nil
}

// dumpProblems prints the frontends of the target that do not serve and, with a source of Services, the comparison of the
// tables with the desired state. The target need not exist.
func dumpProblems(c *cli.Context, tables []*nft.Table, target report.Target) error {
	w := c.App.Writer
	selected, _ := target.Select(report.Describe(tables))
	notServing := report.NotServing(selected)
	found := len(notServing.Services) > 0
	if found {
		if err := report.WriteTable(w, notServing); err != nil {
			return err
		}
	}
	if namesSource(c) {
		desired, err := desiredState(c)
		if err != nil {
			return err
		}
		found = writeComparison(w, report.Compare(desired, tables)) || found
	}
	if !found {
		fmt.Fprintln(w, "no problems found")
	}
	return nil
}

// writeComparison prints one line for each finding and reports whether there is any.
func writeComparison(w io.Writer, found report.Comparison) bool {
	for _, c := range found.Conflicts {
		fmt.Fprintf(w, "conflict: %s\n", c)
	}
	for _, d := range found.Disallowed {
		fmt.Fprintf(w, "disallowed address: %s\n", d)
	}
	for _, o := range found.Oversized {
		fmt.Fprintf(w, "too large: Service %s\n", o)
	}
	for _, a := range found.Ignored {
		fmt.Fprintf(w, "ignored annotation: %s\n", a)
	}
	for _, c := range found.Changes {
		fmt.Fprintf(w, "difference, to be fixed by: %s\n", c.Summary())
	}
	return len(found.Conflicts)+len(found.Disallowed)+len(found.Oversized)+len(found.Ignored)+len(found.Changes) > 0
}
