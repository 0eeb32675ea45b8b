// Package config is what the daemon is told: flags, their environment variables and a KubeProxyConfiguration file become
// Settings, checked. It also says what a changed file asks for. docs/configuration.md is its reference for users.
//
// Whatever makes no sense is found at once and together, each with the flag or the file and the field; what is understood
// and not followed is a Warning. Nothing here acts on settings, and nothing is logged but the trouble of a file that is
// watched.
package config
