package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program returns the header of a program for a processor.
func program(machine elf.Machine) []byte {
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	_ = binary.Write(&b, binary.LittleEndian, h)
	return b.Bytes()
}

// archive writes an archive with these files and returns its checksum.
func archive(t *testing.T, path string, mode int64, files map[string][]byte) string {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	w := tar.NewWriter(zipped)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b.Bytes()))
}

// TestManifest: the manifest of a release is accepted with the archives that belong to it, and with nothing else.
func TestManifest(t *testing.T) {
	template, err := os.ReadFile("plugin.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files := func(machine elf.Machine) map[string][]byte {
		return map[string][]byte{"kubectl-nfproxy": program(machine), "LICENSE": nil, "THIRD_PARTY_LICENSES": nil}
	}
	for _, c := range []struct {
		name     string
		edit     [2]string
		mode     int64
		arm      map[string][]byte
		problems string
	}{
		{"valid", [2]string{}, 0o755, files(elf.EM_AARCH64), ""},
		{"another checksum", [2]string{"sha256: ", "sha256: 0"}, 0o755, files(elf.EM_AARCH64), "and the archive has"},
		{"another version", [2]string{"version: v1.2.3", "version: 1.2.3"}, 0o755, files(elf.EM_AARCH64), "spec.version"},
		{"another kind", [2]string{"kind: Plugin", "kind: Plug"}, 0o755, files(elf.EM_AARCH64), "kind"},
		{"an unknown field", [2]string{"homepage:", "home:"}, 0o755, files(elf.EM_AARCH64), `"home"`},
		{"another archive", [2]string{"linux-arm64.tar.gz", "linux-arm65.tar.gz"}, 0o755, files(elf.EM_AARCH64), "spec.platforms[1]: uri"},
		{"another processor", [2]string{}, 0o755, files(elf.EM_X86_64), "is for EM_X86_64"},
		{"not executable", [2]string{}, 0o644, files(elf.EM_AARCH64), "not an executable file"},
		{"without a licence", [2]string{}, 0o755, map[string][]byte{"kubectl-nfproxy": program(elf.EM_AARCH64), "LICENSE": nil}, "THIRD_PARTY_LICENSES"},
	} {
		dir := t.TempDir()
		amd := archive(t, filepath.Join(dir, "kubectl-nfproxy-v1.2.3-linux-amd64.tar.gz"), 0o755, files(elf.EM_X86_64))
		arm := archive(t, filepath.Join(dir, "kubectl-nfproxy-v1.2.3-linux-arm64.tar.gz"), c.mode, c.arm)
		text := strings.NewReplacer("KREW_VERSION", "v1.2.3", "VERSION", "v1.2.3", "DOWNLOADS", "https://example.org", "SUM_AMD64", amd, "SUM_ARM64", arm).Replace(string(template))
		if c.edit[0] != "" {
			text = strings.Replace(text, c.edit[0], c.edit[1], 1)
		}
		file := filepath.Join(dir, "krew.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := check(file, dir)
		if err == nil && c.problems != "" || err != nil && (c.problems == "" || !strings.Contains(err.Error(), c.problems)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.problems)
		}
	}
}
