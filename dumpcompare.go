package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/nft"
	"nfproxy/render"
)

// errDiffers is how dump --diff ends when there is something to do.
var errDiffers = errors.New("the kernel has not what it should have")

// dumpDiff prints what turns the tables into those that run would make.
func dumpDiff(c *cli.Context, have []*nft.Table) error {
	changes, _, err := compare(c, have)
	if err != nil {
		return err
	}
	for _, change := range changes {
		fmt.Fprintln(c.App.Writer, change)
	}
	if len(changes) > 0 {
		return errDiffers
	}
	return nil
}

// compare asks the source what the tables should be: what there is to do, and who claims what another has.
func compare(c *cli.Context, have []*nft.Table) ([]nft.Change, []render.Conflict, error) {
	u, err := ask(c)
	if err != nil {
		return nil, nil, err
	}
	r := render.NewRuleset(u.Node)
	conflicts := r.Update(u)
	return render.WithoutSpares(r.Reconcile(have)), conflicts, nil
}

// dumpProblems prints the frontends that do not serve and, with a source, who does not get what it claims, and how the
// kernel differs from what it should have.
func dumpProblems(c *cli.Context, have []*nft.Table, d render.Description) error {
	w := c.App.Writer
	var idle render.Description
	for _, s := range d.Services {
		var frontends []render.DescribedFrontend
		for _, f := range s.Frontends {
			if f.Action == "refuse" || f.Action == "drop" || f.LocalEndpoints != nil && len(*f.LocalEndpoints) == 0 {
				frontends = append(frontends, f)
			}
		}
		if s.Frontends = frontends; len(frontends) > 0 {
			idle.Services = append(idle.Services, s)
		}
	}
	found := len(idle.Services) > 0
	if found {
		if err := dumpTable(w, nil, idle); err != nil {
			return err
		}
	}
	if namesSource(c) {
		changes, conflicts, err := compare(c, have)
		if err != nil {
			return err
		}
		found = found || len(changes)+len(conflicts) > 0
		printDrift(w, changes, conflicts)
	}
	if !found {
		fmt.Fprintln(w, "no problem found")
	}
	return nil
}

func printDrift(w io.Writer, changes []nft.Change, conflicts []render.Conflict) {
	for _, c := range conflicts {
		fmt.Fprintf(w, "conflict: %s\n", c)
	}
	for _, c := range changes {
		fmt.Fprintf(w, "the kernel lacks: %s\n", c.Summary())
	}
}
