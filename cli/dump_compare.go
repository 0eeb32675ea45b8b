package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/nft"
	"nfproxy/render"

	"nfproxy/report"
)

// errDiffers is how dump --diff ends when there is something to do.
var errDiffers = errors.New("the kernel has not what it should have")

// dumpDiff prints what turns the tables into those that run would make.
func dumpDiff(c *cli.Context, have []*nft.Table) error {
	found, err := compare(c, have)
	if err != nil {
		return err
	}
	for _, change := range found.changes {
		fmt.Fprintln(c.App.Writer, change)
	}
	if len(found.changes) > 0 {
		return errDiffers
	}
	return nil
}

// comparison is what a source says besides what the kernel has.
type comparison struct {
	conflicts []render.Conflict
	refused   []string     // addresses that the node is set not to serve
	changes   []nft.Change // what is to be done
}

// compare asks the source what the tables should be.
func compare(c *cli.Context, have []*nft.Table) (comparison, error) {
	u, err := ask(c)
	if err != nil {
		return comparison{}, err
	}
	var found comparison
	for _, s := range u.Services {
		for _, r := range render.DisallowedAddressesOf(u.Node, s) {
			for _, addr := range r.Addresses {
				found.refused = append(found.refused, fmt.Sprintf("%s, which Service %s names in %s", addr, s.ServiceName, r.Field()))
			}
		}
	}
	r := render.NewRuleset(u.Node)
	found.conflicts = r.Update(u)
	r.Observe(have)
	found.changes = render.WithoutUnusedChains(r.Plan())
	return found, nil
}

// dumpProblems prints the frontends that do not serve and, with a source, who does not get what it claims, and how the
// kernel differs from what it should have.
func dumpProblems(c *cli.Context, have []*nft.Table, d report.Description) error {
	w := c.App.Writer
	var idle report.Description
	for _, s := range d.Services {
		var frontends []report.Frontend
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
		if err := report.WriteTable(w, nil, idle); err != nil {
			return err
		}
	}
	if namesSource(c) {
		compared, err := compare(c, have)
		if err != nil {
			return err
		}
		found = compared.print(w) || found
	}
	if !found {
		fmt.Fprintln(w, "no problem found")
	}
	return nil
}

// print prints a line for each finding and says whether there is any.
func (f comparison) print(w io.Writer) bool {
	for _, c := range f.conflicts {
		fmt.Fprintf(w, "conflict: %s\n", c)
	}
	for _, r := range f.refused {
		fmt.Fprintf(w, "not served: %s\n", r)
	}
	for _, c := range f.changes {
		fmt.Fprintf(w, "the kernel lacks: %s\n", c.Summary())
	}
	return len(f.conflicts)+len(f.refused)+len(f.changes) > 0
}
