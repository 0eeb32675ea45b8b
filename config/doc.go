// Package config turns the configuration of the daemon into Settings and Warnings. The data flow:
//
//	flags and environment variables  flags.go, kubeproxyflags.go
//	KubeProxyConfiguration           kubeproxyconfig.go
//	            |
//	raw values and defaults          config.go, defaults.go
//	            |
//	Settings and Warnings            check.go, nodeports.go, featuregates.go, settings.go
//
// FromCLI does all of it. It reports all invalid values at once, each with its flag, or with the file and the field. A valid
// value without effect gives a Warning. Watch loads the file again when it changes, and Reload compares the old and the new
// Settings. docs/configuration.md is the reference for users.
//
// Package config does not apply Settings. It logs only the errors of a watched file.
package config
