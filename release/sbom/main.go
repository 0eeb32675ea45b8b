// Command sbom prints the bill of materials of a Go binary as CycloneDX JSON: sbom FILE VERSION DATE. It reads the build
// information in the binary, the same that `go version -m` prints, so it lists a module if and only if the module was linked.
// It uses no other input: the same binary makes the same bytes.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: sbom BINARY VERSION DATE, with a date such as 2006-01-02T15:04:05Z")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, file, version, date string) error {
	binary, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return err
	}
	// There is no serial number: it would have to differ each time.
	bom := cdx.NewBOM()
	bom.SerialNumber = ""
	main := module(info.Main.Path, version)
	main.Type = cdx.ComponentTypeApplication
	sum := sha256.Sum256(binary)
	main.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	bom.Metadata = &cdx.Metadata{Timestamp: date, Component: &main}
	components := components(info)
	bom.Components = &components
	// Programs that read it may be older than the library, and nothing here needs a later version than 1.5.
	return cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_5)
}

// components returns the standard library, under its name in Go's vulnerability database, and the modules in the binary.
func components(info *debug.BuildInfo) []cdx.Component {
	all := []cdx.Component{module("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		all = append(all, module(m.Path, m.Version))
	}
	return all
}

// module returns a component for a Go module.
func module(name, version string) cdx.Component {
	namespace, last := path.Split(name)
	url := packageurl.NewPackageURL(packageurl.TypeGolang, strings.TrimSuffix(namespace, "/"), last, version, nil, "").ToString()
	return cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: url}
}
