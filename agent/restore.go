package agent

import (
	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// damagedElements are elements that other programs changed and that are not restored yet, by their keys, perhaps some twice.
type damagedElements []nft.Elements

// maxDamaged is the largest number of damaged elements. If there are more, the tables are read.
const maxDamaged = 10_000

// add adds the elements of an external change. It returns false if the change does not name everything that it changed, or if
// there are too many elements.
func (e *damagedElements) add(c kernel.ExternalChange) bool {
	if c.Elements == nil {
		return false
	}
	*e = append(*e, c.Elements...)
	n := 0
	for _, of := range *e {
		n += len(of.List)
	}
	return n <= maxDamaged
}

// restore reads the damaged elements and brings them back to the state that the kernel had accepted. It returns the changes. This
// takes time in proportion to the number of these elements, whatever the number of Services.
func (d *daemon) restore() ([]nft.Change, error) {
	var changes []nft.Change
	for _, of := range d.damaged.bySet() {
		found, err := d.kernel.ReadElements(of)
		if err != nil {
			return nil, err
		}
		changes = append(changes, d.ruleset.Restore(of, found)...)
	}
	d.damaged = nil
	return changes, d.kernel.Apply(changes, 0)
}

// bySet returns the elements with one list for each set.
func (e damagedElements) bySet() []nft.Elements {
	var all []nft.Elements
	at := make(map[*nft.Set]int)
	for _, of := range e {
		i, ok := at[of.Set]
		if !ok {
			i, at[of.Set] = len(all), len(all)
			all = append(all, nft.Elements{Set: of.Set})
		}
		all[i].List = append(all[i].List, of.List...)
	}
	return all
}
