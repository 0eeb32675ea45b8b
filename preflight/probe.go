package preflight

import (
	"strings"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// Probe is something that the kernel must take, and what it takes for it.
type Probe struct {
	// Name is the line's Check.
	Name string
	// What is loaded, in words.
	What string
	// Options are the kernel's options that bring it, Modules what they are built as.
	Options, Modules []string
	// Since is the first Linux that has it, empty if every one has that nfproxy runs on.
	Since  string
	Tables []*nft.Table
}

// try loads the probe's tables into the connection's namespace, where nobody else is. They stay until that goes: to
// delete them one by one would take the kernel longer than all the rest.
func (p Probe) try(k *kernel.Conn) Line {
	if err := k.Apply(nft.Diff(nil, p.Tables), 0); err != nil {
		return p.refused(err)
	}
	return ok(p.Name, "loads: %s", p.What)
}

// refused says what the kernel lacks.
func (p Probe) refused(err error) Line {
	l := problem(p.Name, "the kernel refuses %s: %v", p.What, err)
	var needs []string
	if len(p.Options) > 0 {
		needs = append(needs, strings.Join(p.Options, " and "))
	}
	if p.Since != "" {
		needs = append(needs, "Linux "+p.Since+" or newer")
	}
	advice := "it needs " + strings.Join(needs, " and ")
	if len(p.Modules) > 0 {
		advice += "; if the kernel has it as a module: modprobe " + strings.Join(p.Modules, " ")
	}
	return l.advise(advice)
}
