package cli

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/preflight"
	"nfproxy/render"
)

func cleanupCommand() *cli.Command {
	return &cli.Command{
		Name:  "cleanup",
		Usage: "remove nfproxy's or kube-proxy's tables from this network namespace",
		Description: "Open connections continue. New connections to Services are no longer translated. --kube-proxy removes\n" +
			"kube-proxy's nftables tables and keeps nfproxy's; it lists what kube-proxy has elsewhere, such as iptables chains.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "kube-proxy", Usage: "remove kube-proxy's nftables tables instead of nfproxy's"},
		},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			k, err := kernel.Open()
			if err != nil {
				return err
			}
			defer k.Close()
			if c.Bool("kube-proxy") {
				return cleanupKubeProxy(k, preflight.Here(), c.App.Writer)
			}
			return Cleanup(k, c.App.Writer)
		},
	}
}

// Cleanup removes nfproxy's tables and prints their names.
func Cleanup(k *kernel.Conn, w io.Writer) error {
	tables, _, err := k.Read(render.TableIDs()...)
	if err != nil {
		return err
	}
	removed, err := remove(k, tables, w)
	if err == nil && !removed {
		fmt.Fprintln(w, "nothing to remove")
	}
	return err
}

// cleanupKubeProxy removes kube-proxy's nftables tables and prints what else it left and how to remove that.
func cleanupKubeProxy(k *kernel.Conn, node preflight.Node, w io.Writer) error {
	survey, err := k.Survey()
	if err != nil {
		return err
	}
	removed, err := remove(k, preflight.KubeProxyTables(survey), w)
	if err != nil {
		return err
	}
	leftovers := node.KubeProxyLeftovers(survey)
	for _, l := range leftovers {
		fmt.Fprintf(w, "still present: %s: %s\n", l.Check, l.Finding)
		if l.Advice != "" {
			fmt.Fprintf(w, "  what to do: %s\n", l.Advice)
		}
	}
	if !removed && len(leftovers) == 0 {
		fmt.Fprintln(w, "nothing to remove")
	}
	return nil
}

// remove deletes the tables in one transaction, prints their names and reports whether there were any.
func remove(k *kernel.Conn, tables []*nft.Table, w io.Writer) (removed bool, err error) {
	if err := k.Apply(nft.Diff(tables, nil), 0); err != nil {
		return false, err
	}
	for _, t := range tables {
		fmt.Fprintf(w, "removed table %s\n", t.TableID)
	}
	return len(tables) > 0, nil
}
