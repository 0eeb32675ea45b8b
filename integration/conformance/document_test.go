package conformance

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template"
)

// documentFile is the page of the last complete run.
const documentFile = "docs/conformance.md"

var update = flag.Bool("update", false, "write docs/conformance.md from the results of the last complete run")

// families returns the address families of a cluster.
func (s shape) families() string {
	if s.ipv4 {
		return "IPv4"
	}
	return "IPv4 and IPv6"
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{"cell": cell}).Parse(`# Kubernetes' own tests

` + "`make conformance`" + ` runs the end-to-end tests of Kubernetes' group sig-network on real clusters, in namespaces of one machine. Etcd, the API
server with its controllers and its scheduler, kubelets, the container runtime and CoreDNS are the real ones. The service proxy
is the DaemonSet of deploy/nfproxy.yaml, unchanged but for the two lines that the file asks for, from the image that ` + "`make image`" + ` builds.
[testing.md](testing.md#kubernetes-own-tests) describes the clusters. This page is made from the results and not edited.

**{{.Count "passed"}} tests passed, {{.Count "failed"}} failed, {{.Count "left out"}} were left out.** {{.Date}}, commit {{.Commit}}, Kubernetes {{.Kubernetes}}, Linux {{.Kernel}}, {{.Processors}} processors{{range $name, $version := .Packages}}, {{$name}} {{$version}}{{end}}.

| cluster | nodes | addresses | tests at the same time | passed | failed | seconds |
|---|---|---|---|---|---|---|
{{range .Clusters}}| {{.Name}} | {{.Nodes}} | {{.Families}} | {{.Procs}} | {{$.CountOn .Name "passed"}} | {{$.CountOn .Name "failed"}} | {{.Seconds}} |
{{end}}
## Left out

| reason | tests |
|---|---|
{{range .Omitted}}| {{.Reason}} | {{range $i, $name := .Names}}{{if $i}}<br>{{end}}{{cell $name}}{{end}} |
{{end}}
{{- with .Of "failed"}}
## Failed

| test | cluster | seconds | message |
|---|---|---|---|
{{range .}}| {{cell .Name}} | {{.Cluster}} | {{.Seconds}} | {{cell .Reason}} |
{{end}}{{end}}
## Passed

| test | cluster | seconds |
|---|---|---|
{{range .Of "passed"}}| {{cell .Name}} | {{.Cluster}} | {{.Seconds}} |
{{end}}`))

// document returns the page of a run.
func document(r record) []byte {
	var text bytes.Buffer
	if err := page.Execute(&text, r); err != nil {
		panic(err)
	}
	return text.Bytes()
}

// cell returns a text for a cell of a table, a test's name without the prefix of all names.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "[", `\[`, "]", `\]`, "<", "&lt;").Replace(strings.TrimPrefix(text, sigNetwork))
}

// Of returns the results with an outcome.
func (r record) Of(outcome string) []result {
	return slices.DeleteFunc(slices.Clone(r.Results), func(r result) bool { return r.Outcome != outcome })
}

// Count returns the number of tests with an outcome.
func (r record) Count(outcome string) int { return len(r.Of(outcome)) }

// CountOn returns the number of tests of a cluster with an outcome.
func (r record) CountOn(cluster, outcome string) int {
	return len(slices.DeleteFunc(r.Of(outcome), func(r result) bool { return r.Cluster != cluster }))
}

// omission is a reason with the names of the tests that are left out for it.
type omission struct {
	Reason string
	Names  []string
}

// Omitted returns the reasons in the order of the rules.
func (r record) Omitted() []omission {
	var all []omission
	for _, rule := range leftOut {
		o := omission{Reason: rule.reason}
		for _, result := range r.Of(omitted) {
			if result.Reason == rule.reason {
				o.Names = append(o.Names, result.Name)
			}
		}
		all = append(all, o)
	}
	return all
}

// TestDocument: docs/conformance.md is made from the results of the last complete run.
func TestDocument(t *testing.T) {
	want := document(readRecord(t))
	if *update {
		writeFile(t, documentFile, want)
		return
	}
	got, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from the results: go test ./integration/conformance -run TestDocument -update", documentFile)
	}
	for _, r := range readRecord(t).Results {
		if n := strings.Count(string(got), cell(r.Name)); n < 1 {
			t.Errorf("%s does not name %s", documentFile, r.Name)
		}
	}
}
