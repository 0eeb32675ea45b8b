// Command licences prints the licences of what Go binaries have in them that is not their own: licences BINARY..., in the
// directory of the module they were built of. There is a section for each module that `go version -m` shows, and one for Go,
// with the texts as they are in the module cache: those in the directories of the packages in the binary and in the directories
// above these, because what was copied into a module has its licence beside it. The same binaries make the same bytes.
package main

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "licences: takes binaries")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, binaries []string) error {
	all := map[module]texts{}
	for _, file := range binaries {
		info, err := buildinfo.ReadFile(file)
		if err != nil {
			return err
		}
		found, err := licences(info)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for m, texts := range found {
			if all[m] == nil {
				all[m] = texts
			}
			maps.Copy(all[m], texts)
		}
	}
	return write(out, all)
}

// A module is one in a binary.
type module struct {
	name, version string
}

// goItself is Go as a module: its runtime and standard library are in each binary.
func goItself(version string) module {
	return module{"Go", strings.TrimPrefix(version, "go")}
}

// of is a module, or the one that is in its place.
func of(path, version string, replace *debug.Module) module {
	if replace != nil {
		return module{replace.Path, replace.Version}
	}
	return module{path, version}
}

// A package is sourced from a module. Both have directories on this machine.
type sourced struct {
	module          module
	root, directory string
}

// texts are licences by their files' names in the module, with slashes.
type texts map[string][]byte

// licences finds those of the modules in a binary. What go list says of the packages has to be what the binary says of itself:
// another go.mod or another Go would have other texts.
func licences(info *debug.BuildInfo) (map[module]texts, error) {
	packages, err := list(info)
	if err != nil {
		return nil, err
	}
	found := map[module]texts{goItself(info.GoVersion): {}}
	for _, m := range info.Deps {
		found[of(m.Path, m.Version, m.Replace)] = texts{}
	}
	for _, p := range packages {
		if found[p.module] == nil {
			return nil, fmt.Errorf("has no %s %s, which it would be built of here", p.module.name, p.module.version)
		}
		if err := found[p.module].collect(p.root, p.directory); err != nil {
			return nil, err
		}
	}
	for m, texts := range found {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(texts)), licence.MatchString) {
			err = errors.Join(err, fmt.Errorf("%s %s has no licence in its root", m.name, m.version))
		}
	}
	return found, err
}

// A listed package is what go list says of one, as far as it matters here.
type listed struct {
	Dir      string
	Standard bool
	Module   *struct {
		Main               bool
		Path, Version, Dir string
		Replace            *debug.Module
	}
}

// list asks go, that of the environment's GO if there is one, for the packages in a binary: for its machine, as it was built.
// Packages of the standard library become those of a module Go. The binary's own are left out.
func list(info *debug.BuildInfo) ([]sourced, error) {
	environment := os.Environ()
	for _, s := range info.Settings {
		if strings.HasPrefix(s.Key, "GO") || s.Key == "CGO_ENABLED" {
			environment = append(environment, s.Key+"="+s.Value)
		}
	}
	output := func(args ...string) ([]byte, error) {
		command := exec.Command(cmp.Or(os.Getenv("GO"), "go"), args...)
		command.Env = environment
		command.Stderr = os.Stderr
		out, err := command.Output()
		if err != nil {
			return nil, fmt.Errorf("go %s: %w", args[0], err)
		}
		return out, nil
	}
	installed, err := output("env", "GOVERSION", "GOROOT")
	if err != nil {
		return nil, err
	}
	version, root, _ := strings.Cut(strings.TrimSpace(string(installed)), "\n")
	out, err := output("list", "-deps", "-json=Dir,Standard,Module", info.Path)
	if err != nil {
		return nil, err
	}
	var packages []sourced
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p listed
		if err := decoder.Decode(&p); err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		switch {
		case p.Standard:
			packages = append(packages, sourced{goItself(version), root, p.Dir})
		case !p.Module.Main:
			packages = append(packages, sourced{of(p.Module.Path, p.Module.Version, p.Module.Replace), p.Module.Dir, p.Dir})
		}
	}
	return packages, nil
}

var (
	// licence is the file that a module has to have, in its root.
	licence = regexp.MustCompile(`(?i)^((un)?licen[sc]e|copying|copyright)([.-][^/]*)?$`)
	// legal is such a file, or another that goes with what is passed on.
	legal = regexp.MustCompile(`(?i)^((un)?licen[sc]e|copying|copyright|notice|patents)([.-].*)?$`)
)

// collect takes the texts in a directory and in those above it, up to the root. A program's source is none, whatever its name.
func (t texts) collect(root, directory string) error {
	below, err := filepath.Rel(root, directory)
	if err != nil || !filepath.IsLocal(below) {
		return fmt.Errorf("%s is not below %s", directory, root)
	}
	for ; ; below = filepath.Dir(below) {
		files, err := os.ReadDir(filepath.Join(root, below))
		if err != nil {
			return err
		}
		for _, file := range files {
			if !file.Type().IsRegular() || !legal.MatchString(file.Name()) || filepath.Ext(file.Name()) == ".go" {
				continue
			}
			name := filepath.Join(below, file.Name())
			if t[filepath.ToSlash(name)], err = os.ReadFile(filepath.Join(root, name)); err != nil {
				return err
			}
		}
		if below == "." {
			return nil
		}
	}
}

// write prints a section for each module, by name, and in it the texts, by name.
func write(out io.Writer, all map[module]texts) error {
	var b bytes.Buffer
	modules := slices.SortedFunc(maps.Keys(all), func(a, b module) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.version, b.version))
	})
	for i, m := range modules {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "=== %s %s ===\n", m.name, m.version)
		for _, name := range slices.Sorted(maps.Keys(all[m])) {
			fmt.Fprintf(&b, "\n--- %s ---\n\n%s\n", name, bytes.TrimRight(all[m][name], "\n"))
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}
