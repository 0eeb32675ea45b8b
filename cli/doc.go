// Package cli is the command line of nfproxy. Each command has a file: run, status, verify, dump, explain, trace, top, check,
// cleanup, demo, completion and version. plugin.go is the command line of `kubectl nfproxy`, with a file plugin_NAME.go for each command. A command reads its flags, calls the package that does the work and prints the result.
//
// Read app.go first: Main assembles the commands. Files that several commands share: output.go (-o), target.go (the Service
// or address that a command is asked about), tables.go (nfproxy's tables in the kernel), settings.go (flags and the file of
// --config), desired.go (the desired state, from a source of Services), daemon.go (the settings of the
// running daemon). documented.go lists commands and flags for
// docs/cli.md and shell completion.
package cli
