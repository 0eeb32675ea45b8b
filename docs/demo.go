// Package docs embeds the documents that the nfproxy binary uses.
package docs

import "embed"

// Demo holds the manifests of nfproxy demo, as demo/*.yaml.
//
//go:embed demo/*.yaml
var Demo embed.FS
