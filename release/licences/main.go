// Command licences prints the licences of all modules in Go binaries except their main modules: licences BINARY..., run in the
// directory of the module that they were built from. The output has a section for each module that `go version -m` prints, and
// one for Go. A section contains the licence files in the directories of the packages that the binary contains and in the
// directories above these, because code that was copied into a module has its licence beside it. The texts come from the module
// cache. The same binaries make the same bytes.
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
		fmt.Fprintln(os.Stderr, "usage: licences BINARY...")
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

// module is a module in a binary.
type module struct {
	name, version string
}

// goModule returns Go as a module: every binary contains its runtime and standard library.
func goModule(version string) module {
	return module{"Go", strings.TrimPrefix(version, "go")}
}

// moduleOf returns a module, or the module that replaces it.
func moduleOf(path, version string, replace *debug.Module) module {
	if replace != nil {
		return module{replace.Path, replace.Version}
	}
	return module{path, version}
}

// modulePackage is a package in a module, with the directories of both on this machine.
type modulePackage struct {
	module          module
	root, directory string
}

// texts holds licence files by their names in the module, with slashes.
type texts map[string][]byte

// licences returns the licence files of the modules in a binary. It fails if the packages that go list prints do not belong to
// the modules in the binary, since another go.mod or another Go has other licence files.
func licences(info *debug.BuildInfo) (map[module]texts, error) {
	packages, err := listPackages(info)
	if err != nil {
		return nil, err
	}
	found := map[module]texts{goModule(info.GoVersion): {}}
	for _, m := range info.Deps {
		found[moduleOf(m.Path, m.Version, m.Replace)] = texts{}
	}
	for _, p := range packages {
		if found[p.module] == nil {
			return nil, fmt.Errorf("the binary does not contain %s %s, but a build here would", p.module.name, p.module.version)
		}
		if err := found[p.module].collect(p.root, p.directory); err != nil {
			return nil, err
		}
	}
	for m, texts := range found {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(texts)), licence.MatchString) {
			err = errors.Join(err, fmt.Errorf("%s %s has no licence file in its root", m.name, m.version))
		}
	}
	return found, err
}

// listedPackage holds the fields of go list's output that are used here.
type listedPackage struct {
	Dir      string
	Standard bool
	Module   *struct {
		Main               bool
		Path, Version, Dir string
		Replace            *debug.Module
	}
}

// listPackages runs go list, with the go command that the environment variable GO names if it is set, and returns the packages in a
// binary, with the build settings of the binary. Packages of the standard library belong to a module named Go. Packages of the
// main module are left out.
func listPackages(info *debug.BuildInfo) ([]modulePackage, error) {
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
	var packages []modulePackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p listedPackage
		if err := decoder.Decode(&p); err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		switch {
		case p.Standard:
			packages = append(packages, modulePackage{goModule(version), root, p.Dir})
		case !p.Module.Main:
			packages = append(packages, modulePackage{moduleOf(p.Module.Path, p.Module.Version, p.Module.Replace), p.Module.Dir, p.Dir})
		}
	}
	return packages, nil
}

var (
	// licence matches the names of licence files. A module must have one in its root.
	licence = regexp.MustCompile(`(?i)^((un)?licen[sc]e|copying|copyright)([.-][^/]*)?$`)
	// legal also matches the names of other files that must accompany a copy.
	legal = regexp.MustCompile(`(?i)^((un)?licen[sc]e|copying|copyright|notice|patents)([.-].*)?$`)
)

// collect reads the legal files in a directory and in the directories above it, up to the root. It skips Go source files, whatever
// their names.
func (t texts) collect(root, directory string) error {
	below, err := filepath.Rel(root, directory)
	if err != nil || !filepath.IsLocal(below) {
		return fmt.Errorf("directory %s is not below %s", directory, root)
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

// write prints a section for each module, sorted by name, with its licence files sorted by name.
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
