//go:build linux

package controlplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// binaries is the directory below the module's root into which `make controlplane` builds the programs.
const binaries = ".bin"

// binary returns the path of a program that `make controlplane` builds.
func binary(name string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, binaries, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built: run `make controlplane` (%w)", name, err)
	}
	return path, nil
}

// moduleRoot returns the closest directory that has a go.mod, the working
// directory or one above it. Tests run in the directory of their package.
func moduleRoot() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find module root: %w", err)
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("find module root: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find module root: no go.mod above %s", here)
		}
	}
}
