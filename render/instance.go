package render

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"nfproxy/nft"
)

// Instance is one of the nfproxies that a network namespace can have: the Services that it serves and its tables. The zero
// Instance serves the Services without the label service.kubernetes.io/service-proxy-name, in the tables nfproxy. An instance with
// a name serves those whose label has this value, in the tables nfproxy/NAME.
//
// Instances of different names share no tables, so that they can run side by side, or beside kube-proxy. An instance with a
// name leaves alone what it does not know: it drops nothing in the service CIDRs.
type Instance struct {
	named *schemas // nil without a name
}

// schemas holds the schemas of an instance.
type schemas struct {
	name       string
	ipv4, ipv6 *Schema
}

// unnamed holds the schemas of the zero Instance. They are constant data.
var unnamed = newSchemas("")

func newSchemas(name string) *schemas {
	table := tableName
	if name != "" {
		table += nameSeparator + name
	}
	return &schemas{name, newSchema(nft.TableID{Family: nft.IPv4, Name: table}), newSchema(nft.TableID{Family: nft.IPv6, Name: table})}
}

const (
	// tableName is the name of the tables of the zero Instance, in both families.
	tableName = "nfproxy"
	// nameSeparator stands before the name of an instance. No name contains it, so that no tables of an instance have the name of
	// another program's tables, or of nfproxy's guard.
	nameSeparator = "/"
	// maxInstanceName is the greatest length of the value of a label (validation.LabelValueMaxLength in k8s.io/apimachinery).
	maxInstanceName = 63
)

// NewInstance returns the instance with a name, or the zero Instance if the name is empty. The name is the value of a label: it returns
// an error for a text that cannot be one. All values of labels are valid in the name of a table too: nft reads letters, digits, "-",
// "_", "." and "/" after the first letter (src/scanner.l).
func NewInstance(name string) (Instance, error) {
	if name == "" {
		return Instance{}, nil
	}
	if len(name) > maxInstanceName {
		return Instance{}, fmt.Errorf("%q is longer than the value of a label, %d characters", name, maxInstanceName)
	}
	inside := func(r rune) bool { return isAlphanumeric(r) || strings.ContainsRune("-_.", r) }
	if strings.ContainsFunc(name, func(r rune) bool { return !inside(r) }) ||
		!isAlphanumeric(rune(name[0])) || !isAlphanumeric(rune(name[len(name)-1])) {
		return Instance{}, fmt.Errorf("%q is not the value of a label: letters and digits, with \"-\", \"_\" and \".\" between them", name)
	}
	return Instance{newSchemas(name)}, nil
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

func (i Instance) schemas() *schemas {
	if i.named == nil {
		return unnamed
	}
	return i.named
}

// Name returns the name, "" for the zero Instance.
func (i Instance) Name() string { return i.schemas().name }

// Suffix returns what distinguishes the names of objects of this instance from those of others: "" for the zero Instance, or a slash
// and the name.
func (i Instance) Suffix() string {
	if i.named == nil {
		return ""
	}
	return nameSeparator + i.named.name
}

// Equal reports whether two instances are the same.
func (i Instance) Equal(j Instance) bool { return i.Name() == j.Name() }

// TableIDs returns the names of the tables.
func (i Instance) TableIDs() []nft.TableID {
	return []nft.TableID{i.SchemaOf(nft.IPv4).Table, i.SchemaOf(nft.IPv6).Table}
}

// SchemaOf returns the schema of a family.
func (i Instance) SchemaOf(f nft.Family) *Schema {
	if f == nft.IPv6 {
		return i.schemas().ipv6
	}
	return i.schemas().ipv4
}

// RestorableSets returns the sets whose elements Restore can restore one by one: all that hold elements of Services, except
// interval sets.
func (i Instance) RestorableSets() []*nft.Set {
	n := Node{UnservedPorts: RefuseUnserved, AnswerPing: true} // has all sets
	all := slices.Concat(i.SchemaOf(nft.IPv4).ofServices(n), i.SchemaOf(nft.IPv6).ofServices(n))
	return slices.DeleteFunc(all, func(s *nft.Set) bool { return s.Interval })
}

// errNoInstance is the error of InstanceOf for a table that belongs to no instance.
var errNoInstance = errors.New("not a table of nfproxy")

// InstanceOf returns the instance whose tables have a name.
func InstanceOf(table string) (Instance, error) {
	if table == tableName {
		return Instance{}, nil
	}
	name, ok := strings.CutPrefix(table, tableName+nameSeparator)
	if !ok || name == "" {
		return Instance{}, errNoInstance
	}
	return NewInstance(name)
}
