package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// Verification is the result of comparing tables with the desired state for some time. Its JSON form is what `nfproxy verify -o json`
// prints.
type Verification struct {
	// Compared is the number of frontends that are in the desired state or in the tables.
	Compared int `json:"compared"`
	// Differing are the frontends at which the tables have differed from the desired state in the same way for long enough.
	Differing []DifferingFrontend `json:"differing"`
	// Other are such differences of objects that do not belong to one frontend, as nft commands that fix them. The last entry can be a
	// comment with the number of those that are not listed; OtherCount is the number of all.
	Other      []string `json:"other"`
	OtherCount int      `json:"otherCount"`
	// Changing is the number of differences that have not lasted, or not yet: changes in flight.
	Changing int `json:"changing"`
	// Growing is the number of frontends whose endpoints have other weights than they will have: their Services have slow start.
	Growing int `json:"growing"`
}

// DifferingFrontend is a frontend at which the tables differ from the desired state.
type DifferingFrontend struct {
	// Service owns the frontend, or had it when the tables were programmed. It is empty if that is unknown.
	Service  string     `json:"service,omitempty"`
	Address  netip.Addr `json:"address"`
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"`
	// Fixes are nft commands that bring the tables to the desired state.
	Fixes []string `json:"fixes"`
}

// OK reports whether nothing differs.
func (v Verification) OK() bool { return len(v.Differing)+len(v.Other) == 0 }

// Verifier compares tables with a desired state while both change. Update changes the desired state, Look compares it with the tables
// as they are at a time. A difference counts only if the same commands would fix it at each Look for the patience of the Verifier.
type Verifier struct {
	patience time.Duration
	ruleset  *render.Ruleset
	starting map[render.ServiceName]bool // Services with slow start
	since    map[string]time.Time        // when the differences of the last Look were first found, by their text
}

// NewVerifier returns a Verifier for a node, without Services.
func NewVerifier(n render.Node, patience time.Duration) *Verifier {
	return &Verifier{patience: patience, ruleset: render.NewRuleset(n), starting: make(map[render.ServiceName]bool)}
}

// Update applies an Update to the desired state.
func (v *Verifier) Update(u render.Update) {
	v.ruleset.Update(u)
	for _, name := range u.Removed {
		delete(v.starting, name)
	}
	for _, s := range u.Services {
		v.starting[s.ServiceName] = s.SlowStart > 0
	}
}

// maxFixes is how many commands are listed for one frontend, and for other objects.
const maxFixes = 10

// Look compares the tables with the desired state at a time. The result is final if nothing is still changing.
func (v *Verifier) Look(tables []*nft.Table, now time.Time) Verification {
	v.ruleset.Observe(tables)
	changes := render.WithoutUnusedObjects(v.ruleset.Plan())
	frontends, other := v.group(withoutMissingBalancing(changes, tables))
	found := Verification{Compared: countFrontends(tables, changes), Differing: []DifferingFrontend{}, Other: []string{}}
	found.Growing = v.dropGrowing(frontends, tables)
	before := v.since
	v.since = make(map[string]time.Time)
	lasts := func(what string) bool {
		first, known := before[what]
		if !known {
			first = now
		}
		v.since[what] = first
		return now.Sub(first) >= v.patience
	}
	for _, f := range sortedFrontends(frontends) {
		d := frontends[f]
		if !lasts(f.String() + f.Protocol.String() + strings.Join(d.Fixes, "\n")) {
			found.Changing++
			continue
		}
		d.Fixes = firstFixes(d.Fixes)
		found.Differing = append(found.Differing, *d)
	}
	for _, text := range other {
		if lasts(text) {
			found.Other = append(found.Other, text)
		} else {
			found.Changing++
		}
	}
	found.OtherCount, found.Other = len(found.Other), firstFixes(found.Other)
	return found
}

// firstFixes returns the first maxFixes, and the number of the others.
func firstFixes(all []string) []string {
	if n := len(all) - maxFixes; n > 0 {
		return append(all[:maxFixes:maxFixes], fmt.Sprintf("# %d more", n))
	}
	return all
}

// withoutMissingBalancing returns changes without those that add balancing chains that the tables lack: no frontend can lead there, so
// that the frontends for which they are added differ by themselves.
func withoutMissingBalancing(changes []nft.Change, tables []*nft.Table) []nft.Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c nft.Change) bool {
		chain := c.Chain()
		if chain == nil || !render.IsBalancing(chain.Name) {
			return false
		}
		i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.TableID == chain.Table })
		return i >= 0 && tables[i].Chain(chain.Name) == nil
	})
}

// group divides changes by frontend. Changes of objects without a frontend are returned as text.
func (v *Verifier) group(changes []nft.Change) (frontends map[render.Frontend]*DifferingFrontend, other []string) {
	frontends = make(map[render.Frontend]*DifferingFrontend)
	for _, c := range changes {
		list, ok := c.Object.(nft.Elements)
		if !ok {
			other = append(other, oneLine(c))
			continue
		}
		for _, e := range list.List {
			e.Counter = nil // it changes, and does not differ
			text := oneLine(nft.Change{Op: c.Op, Object: nft.Elements{Set: list.Set, List: []nft.Element{e}}})
			f, ok := render.FrontendIn(list.Set, e.Key)
			if !ok {
				other = append(other, text)
				continue
			}
			d := frontends[f]
			if d == nil {
				d = &DifferingFrontend{Service: v.owner(f), Address: f.Addr(), Port: f.Port(), Protocol: strings.ToUpper(f.Protocol.String())}
				frontends[f] = d
			}
			if name, _, ok := render.ParseLabel(e.Comment); ok && d.Service == "" {
				d.Service = name.String()
			}
			d.Fixes = append(d.Fixes, text)
		}
	}
	return frontends, other
}

func (v *Verifier) owner(f render.Frontend) string {
	if name := v.ruleset.Owner(f); name != (render.ServiceName{}) {
		return name.String()
	}
	return ""
}

// oneLine returns a change as nft commands in one line.
func oneLine(c nft.Change) string { return strings.ReplaceAll(c.Summary(), "\n", "; ") }

// countFrontends counts the frontends in the tables and those that changes add.
func countFrontends(tables []*nft.Table, changes []nft.Change) int {
	n := 0
	for _, t := range tables {
		if s := t.Set(render.SchemaOf(t.Family).Services.Name); s != nil {
			n += len(s.Elements)
		}
	}
	for _, c := range changes {
		list, ok := c.Object.(nft.Elements)
		if ok && c.Op == nft.Add && list.Set.Name == render.SchemaOf(list.Set.Table.Family).Services.Name {
			n += len(list.List)
		}
	}
	return n
}

// dropGrowing removes the frontends of Services with slow start that have the desired endpoints, with other weights, and returns how
// many there were. Only the daemon knows when these endpoints became ready.
func (v *Verifier) dropGrowing(frontends map[render.Frontend]*DifferingFrontend, tables []*nft.Table) int {
	var growing []render.Frontend
	for f := range frontends {
		if v.starting[v.ruleset.Owner(f)] {
			growing = append(growing, f)
		}
	}
	if len(growing) == 0 {
		return 0
	}
	have := frontendsOf(Describe(tables))
	v.ruleset.Accept()
	want := frontendsOf(Describe(v.ruleset.Tables()))
	n := 0
	for _, f := range growing {
		if is, found := have[f]; found && is == want[f] {
			delete(frontends, f)
			n++
		}
	}
	return n
}

// frontendsOf returns what becomes of connections to each frontend, as a text without weights and counters.
func frontendsOf(d Description) map[render.Frontend]string {
	all := make(map[render.Frontend]string)
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			text := fmt.Sprint(s.Namespace, s.Name, s.Port, f.Kind, f.Action, f.AffinitySeconds, f.HashOn, f.Limits.terms(),
				addressesOf(f.Endpoints))
			if f.LocalEndpoints != nil {
				text += fmt.Sprint(addressesOf(*f.LocalEndpoints))
			}
			all[s.frontend(f)] = text
		}
	}
	return all
}

// addressesOf returns the sorted addresses of endpoints.
func addressesOf(endpoints []Endpoint) []string {
	all := make([]string, len(endpoints))
	for i, e := range endpoints {
		all[i] = e.String()
	}
	slices.Sort(all)
	return all
}

// sortedFrontends returns the frontends by Service, address, protocol and port.
func sortedFrontends(frontends map[render.Frontend]*DifferingFrontend) []render.Frontend {
	var all []render.Frontend
	for f := range frontends {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b render.Frontend) int {
		return cmp.Or(cmp.Compare(frontends[a].Service, frontends[b].Service), a.Addr().Compare(b.Addr()),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port(), b.Port()))
	})
	return all
}
