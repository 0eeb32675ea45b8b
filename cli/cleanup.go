package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/agent"
	"nfproxy/config"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/preflight"
	"nfproxy/render"
)

func cleanupCommand() *cli.Command {
	return &cli.Command{
		Name:  "cleanup",
		Usage: "remove nfproxy's tables from this network namespace, or those that kube-proxy left",
		Description: "Open connections continue. New connections to Services are no longer translated.\n" +
			"With --kube-proxy, cleanup removes kube-proxy's nftables tables and keeps nfproxy's. It lists what else kube-proxy\n" +
			"left, and how to remove that.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "kube-proxy", Usage: "remove kube-proxy's nftables tables instead of nfproxy's"},
			config.InstanceFlag(),
		},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			instance, err := config.InstanceOf(c)
			if err != nil {
				return err
			}
			k, err := kernel.Open()
			if err != nil {
				return err
			}
			defer k.Close()
			switch {
			case c.Bool("kube-proxy") && instance.Name() != "":
				return errors.New("--kube-proxy cannot be combined with --service-proxy-name: beside an nfproxy of a name, kube-proxy serves the other Services")
			case c.Bool("kube-proxy"):
				return cleanupKubeProxy(k, preflight.Here(instance), c.App.Writer)
			}
			return Cleanup(k, instance, c.App.Writer)
		},
	}
}

// Cleanup removes the tables of an instance and prints their names. While a daemon of the instance runs, which would restore them,
// it changes nothing and returns an error.
func Cleanup(k *kernel.Conn, i render.Instance, w io.Writer) error {
	err := agent.RunningDaemon(k, i)
	if other, ok := errors.AsType[*agent.OtherDaemonError](err); ok {
		return fmt.Errorf("a running nfproxy daemon keeps the tables and would restore them: stop it first (table %s belongs to it)", other.Table)
	}
	if err != nil {
		return err
	}
	tables, _, err := k.Read(i.TableIDs()...)
	if err != nil {
		return err
	}
	removed, err := remove(k, tables, w)
	if err == nil && !removed {
		fmt.Fprintln(w, "nothing to remove")
	}
	return err
}

// cleanupKubeProxy removes the tables that kube-proxy left, and prints what else it left and how to remove that.
func cleanupKubeProxy(k *kernel.Conn, node preflight.Node, w io.Writer) error {
	survey, err := k.Survey()
	if err != nil {
		return err
	}
	removed, err := remove(k, preflight.KubeProxyTables(survey), w)
	if err != nil {
		return err
	}
	left := node.KubeProxyLeftovers(survey)
	for _, l := range left {
		fmt.Fprintf(w, "not removed: %s: %s\n", l.Check, l.Finding)
		if l.Advice != "" {
			fmt.Fprintf(w, "  what to do: %s\n", l.Advice)
		}
	}
	if !removed && len(left) == 0 {
		fmt.Fprintln(w, "nothing to remove")
	}
	return nil
}

// remove deletes the tables and prints their names.
func remove(k *kernel.Conn, tables []*nft.Table, w io.Writer) (removed bool, err error) {
	if err := k.Apply(nft.Diff(tables, nil), 0); err != nil {
		return false, err
	}
	for _, t := range tables {
		fmt.Fprintf(w, "removed table %s\n", t.TableID)
	}
	return len(tables) > 0, nil
}
