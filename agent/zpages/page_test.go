package zpages

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// ask returns the response of a page to a request with these headers, pairs of names and values.
func ask(h http.Handler, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestAccept: the Accept header decides between text, an object in JSON or YAML, and an error. TestZPagesOfKubeProxy compares the
// answers with kube-proxy's.
func TestAccept(t *testing.T) {
	const text = "text/plain; charset=utf-8"
	page := Flagz(map[string]string{"v": "0"})
	for _, c := range []struct {
		accept      string
		code        int
		contentType string
		body        string
	}{
		{"", 200, text, ""},
		{" ", 200, text, ""},
		{"*/*", 200, text, ""},
		{"text/*", 200, text, ""},
		{"application/json;v=v9;g=config.k8s.io;as=Flagz,*/*;q=0.1", 200, text, ""},
		{"application/json;v=v1beta1;g=config.k8s.io;as=Flagz", 200, "application/json;g=config.k8s.io;v=v1beta1;as=Flagz",
			`{"kind":"Flagz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"nfproxy"},"flags":{"v":"0"}}` + "\n"},
		{"application/yaml;v=v1alpha1;g=config.k8s.io;as=Flagz", 200, "application/yaml;g=config.k8s.io;v=v1alpha1;as=Flagz",
			"apiVersion: config.k8s.io/v1alpha1\nflags:\n  v: \"0\"\nkind: Flagz\nmetadata:\n  name: nfproxy\n"},
		{"text/plain;q=0.5,application/json;as=Flagz;g=config.k8s.io;v=v1beta1;other=1", 200, "application/json;g=config.k8s.io;v=v1beta1;as=Flagz", ""},
		{"application/json", 406, "application/json", ""},
		{"application/yaml", 406, "application/yaml", ""},
		{"application/json;v=v1beta1;g=config.k8s.io;as=Statusz", 406, "application/json", ""},
		{"application/json;v=v1beta1;g=config.k8s.io;as=Flagz;stream=watch", 406, "application/json", ""},
		{"text/plain;v=v1beta1;g=config.k8s.io;as=Flagz", 406, "application/json", ""},
		{"application/cbor;v=v1beta1;g=config.k8s.io;as=Flagz", 406, "application/json", ""},
		{"image/png", 406, "application/json", ""},
		{";;,/,a/b/c", 406, "application/json", ""},
	} {
		w := ask(page, "Accept", c.accept)
		if w.Code != c.code || w.Header().Get("Content-Type") != c.contentType || c.body != "" && w.Body.String() != c.body {
			t.Errorf("%s: %d, %s\n%s", c.accept, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
		if warned := w.Header().Get("Warning") != ""; warned != strings.Contains(c.accept, deprecated) {
			t.Errorf("%s: warning %q", c.accept, w.Header().Get("Warning"))
		}
		if c.code == 406 && !strings.Contains(strings.Join(strings.Fields(w.Body.String()), " "), "only the following media types are accepted: application/json, application/yaml, text/plain") {
			t.Errorf("%s: %s", c.accept, w.Body)
		}
	}
}

// TestPretty: people get indented JSON.
func TestPretty(t *testing.T) {
	const accept = "application/json;v=v1beta1;g=config.k8s.io;as=Flagz"
	page := Flagz(nil)
	for _, c := range []struct {
		accept, agent string
		indented      bool
	}{
		{accept, "Go-http-client/1.1", false}, {accept + ";pretty=1", "", true}, {accept, "curl/8.0", true}, {accept, "Mozilla/5.0 (X11)", true},
	} {
		body := ask(page, "Accept", c.accept, "User-Agent", c.agent).Body.String()
		if got := strings.Contains(body, "\n  "); got != c.indented || !json.Valid([]byte(body)) {
			t.Errorf("%s, %s: %s", c.accept, c.agent, body)
		}
	}
}

// TestStatusz: the page has the start of this process, not that of the handler, and the first parts of the paths.
func TestStatusz(t *testing.T) {
	var object struct {
		StartTime                time.Time
		UptimeSeconds            int64
		GoVersion, BinaryVersion string
		Paths                    []string
	}
	page := Statusz("v1.2.3", []string{"/metrics", "/debug/pprof/", "/debug/pprof/trace", "/configz"})
	w := ask(page, "Accept", "application/yaml;v=v1beta1;g=config.k8s.io;as=Statusz")
	if err := yaml.Unmarshal(w.Body.Bytes(), &object); err != nil {
		t.Fatal(err)
	}
	if object.GoVersion != runtime.Version() || object.BinaryVersion != "v1.2.3" || strings.Join(object.Paths, " ") != "/configz /debug /metrics" {
		t.Errorf("%+v", object)
	}
	if start := processStart(time.Time{}); start.IsZero() || !object.StartTime.Equal(start) || object.UptimeSeconds < 0 || start.After(time.Now()) {
		t.Errorf("%+v, want start %v", object, start)
	}
	text := ask(page).Body.String()
	for _, want := range []string{"\nnfproxy statusz\nWarning: ", "\n\nStarted", "\nUp", " hr ", "\nGo version", "\nBinary version", " v1.2.3\n\nPaths", " /configz /debug /metrics\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
}
