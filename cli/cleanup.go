package cli

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/preflight"
)

func cleanupCommand() *cli.Command {
	return &cli.Command{
		Name:  "cleanup",
		Usage: "remove nfproxy's tables from this network namespace, or what kube-proxy left there",
		Description: "Connections that are open go on. New ones to Services find nobody who translates them.\n" +
			"With --kube-proxy its nftables tables are removed, and nfproxy's stay; what it has elsewhere is said.",
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

// cleanup removes our tables.
func Cleanup(k *kernel.Conn, w io.Writer) error {
	have, _, err := k.Read(render.TableIDs()...)
	if err != nil {
		return err
	}
	removed, err := remove(k, have, w)
	if err == nil && !removed {
		fmt.Fprintln(w, "there was nothing to remove")
	}
	return err
}

// cleanupKubeProxy removes the tables that kube-proxy left, and says what else it left and how that is removed.
func cleanupKubeProxy(k *kernel.Conn, node preflight.Node, w io.Writer) error {
	survey, err := k.Survey()
	if err != nil {
		return err
	}
	removed, err := remove(k, preflight.KubeProxyTables(survey), w)
	if err != nil {
		return err
	}
	left := node.KubeProxyElsewhere(survey)
	for _, l := range left {
		fmt.Fprintf(w, "left, %s: %s\n", l.Check, l.Finding)
		if l.Advice != "" {
			fmt.Fprintf(w, "  what to do: %s\n", l.Advice)
		}
	}
	if !removed && len(left) == 0 {
		fmt.Fprintln(w, "there was nothing to remove")
	}
	return nil
}

// remove is a diff against nothing.
func remove(k *kernel.Conn, tables []*nft.Table, w io.Writer) (removed bool, err error) {
	if err := k.Apply(nft.Diff(tables, nil), 0); err != nil {
		return false, err
	}
	for _, t := range tables {
		fmt.Fprintf(w, "removed table %s\n", t.TableID)
	}
	return len(tables) > 0, nil
}
