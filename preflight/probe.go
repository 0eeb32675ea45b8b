package preflight

import (
	"strings"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// Probe is a kernel feature and the tables that show whether the kernel has it.
type Probe struct {
	// Name is the Check of the resulting Line.
	Name string
	// What describes the feature.
	What string
	// Options are the kernel options that the feature needs, Modules the modules that they are built as.
	Options, Modules []string
	// Since is the first Linux version with the feature; it is empty if nfproxy runs on no version without it.
	Since string
	// Flag is the flag of nfproxy run, or the annotation, that alone needs the feature, empty if every node needs it.
	Flag string
	// Tables are accepted by a kernel that has the feature.
	Tables []*nft.Table
}

// try loads the probe's tables into the connection's network namespace, which no program uses. It does not delete them:
// they go with the namespace, and deleting each table would take the kernel longer than all other work of the probes.
func (p Probe) try(k *kernel.Conn) Line {
	if err := k.Apply(nft.Diff(nil, p.Tables), 0); err != nil {
		return p.rejected(err)
	}
	return ok(p.Name, "supported: %s", p.What)
}

// rejected returns the line for a probe that the kernel rejected with err. The advice names what the feature needs.
func (p Probe) rejected(err error) Line {
	l := problem(p.Name, "rejected by the kernel: %s: %v", p.What, err)
	if p.Flag != "" {
		l = warning(p.Name, "rejected by the kernel: %s: %v", p.What, err)
	}
	var needs []string
	if len(p.Options) > 0 {
		needs = append(needs, strings.Join(p.Options, " and "))
	}
	if p.Since != "" {
		needs = append(needs, "Linux "+p.Since+" or newer")
	}
	advice := "needs " + strings.Join(needs, " and ")
	if p.Flag != "" {
		advice = "only " + p.Flag + " requires it; it " + advice
	}
	if len(p.Modules) > 0 {
		advice += "; if built as a module: modprobe " + strings.Join(p.Modules, " ")
	}
	return l.advise(advice)
}
