// Command krew checks the manifest of the kubectl plugin as krew does, and that it agrees with the archives of a release:
//
//	krew MANIFEST DIRECTORY
//
// The rules are those of krew's internal/index/validation, and of its installation of an archive.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// manifest is a plugin manifest of krew.
type manifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string     `json:"version"`
		Homepage         string     `json:"homepage"`
		ShortDescription string     `json:"shortDescription"`
		Description      string     `json:"description"`
		Caveats          string     `json:"caveats"`
		Platforms        []platform `json:"platforms"`
	} `json:"spec"`
}

// platform is an archive for machines that a selector selects.
type platform struct {
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	URI    string `json:"uri"`
	SHA256 string `json:"sha256"`
	Bin    string `json:"bin"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: krew MANIFEST DIRECTORY")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "krew:", err)
		os.Exit(1)
	}
}

var (
	semantic = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)
	checksum = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// machines are the processors of a release, by krew's name.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// check checks a manifest and the archives that it names, which are in a directory.
func check(file, dir string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var m manifest
	if err := yaml.UnmarshalStrict(text, &m); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if m.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || m.Kind != "Plugin" {
		wrong("apiVersion %q, kind %q", m.APIVersion, m.Kind)
	}
	if m.Metadata.Name != "nfproxy" {
		wrong("metadata.name %q, want nfproxy", m.Metadata.Name)
	}
	if !semantic.MatchString(m.Spec.Version) {
		wrong("spec.version %q is not a semantic version with a v", m.Spec.Version)
	}
	if s := m.Spec.ShortDescription; s == "" || strings.ContainsAny(s, "\r\n") {
		wrong("spec.shortDescription %q is not one line", s)
	}
	if len(m.Spec.Platforms) != len(machines) {
		wrong("spec.platforms has %d entries, want %d", len(m.Spec.Platforms), len(machines))
	}
	for i, p := range m.Spec.Platforms {
		if err := p.check(dir); err != nil {
			wrong("spec.platforms[%d]: %w", i, err)
		}
	}
	return errors.Join(problems...)
}

// check checks one platform and its archive.
func (p platform) check(dir string) error {
	arch := p.Selector.MatchLabels["arch"]
	machine, known := machines[arch]
	if !known || p.Selector.MatchLabels["os"] != "linux" || len(p.Selector.MatchLabels) != 2 {
		return fmt.Errorf("selector %v", p.Selector.MatchLabels)
	}
	at, err := url.Parse(p.URI)
	if err != nil || at.Scheme != "https" || !strings.HasSuffix(at.Path, "-linux-"+arch+".tar.gz") {
		return fmt.Errorf("uri %q is not the https URL of the archive for %s", p.URI, arch)
	}
	content, err := os.ReadFile(filepath.Join(dir, path.Base(at.Path)))
	if err != nil {
		return err
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(content)); !checksum.MatchString(p.SHA256) || sum != p.SHA256 {
		return fmt.Errorf("sha256 %q, and the archive has %s", p.SHA256, sum)
	}
	program, err := extract(content, p.Bin)
	if err != nil {
		return fmt.Errorf("%s: %w", path.Base(at.Path), err)
	}
	binary, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("bin %q: %w", p.Bin, err)
	}
	if binary.Machine != machine {
		return fmt.Errorf("bin %q is for %s, not for %s", p.Bin, binary.Machine, arch)
	}
	return nil
}

// extract returns an executable file of an archive, which must have the licences, too.
func extract(archive []byte, bin string) ([]byte, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	var program []byte
	missing := map[string]bool{bin: true, "LICENSE": true, "THIRD_PARTY_LICENSES": true}
	for files := tar.NewReader(unzipped); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		delete(missing, h.Name)
		if h.Name != bin {
			continue
		}
		if h.Typeflag != tar.TypeReg || h.Mode&0o111 == 0 {
			return nil, fmt.Errorf("bin %q is not an executable file", bin)
		}
		if program, err = io.ReadAll(files); err != nil {
			return nil, err
		}
	}
	for name := range missing {
		return nil, fmt.Errorf("the archive has no file %q", name)
	}
	return program, nil
}
