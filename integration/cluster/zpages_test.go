package cluster

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// zPage is an answer of /statusz or /flagz.
type zPage struct {
	Status      int
	ContentType string
	Warning     string
	Indented    bool
	// Body is the text, or the object, without what differs between kube-proxy and nfproxy.
	Body any
}

// acceptHeaders are Accept headers for the pages; KIND stands for the kind of the object.
var acceptHeaders = []string{
	"", " ", "*/*", "text/plain", "text/*", "text/plain; charset=utf-8", "text/plain;as=KIND",
	"application/json;v=v1beta1;g=config.k8s.io;as=KIND", "application/json; v=v1beta1; g=config.k8s.io; as=KIND", "application/json;v=v1alpha1;g=config.k8s.io;as=KIND",
	"application/yaml;v=v1beta1;g=config.k8s.io;as=KIND", "application/yaml;v=v1alpha1;g=config.k8s.io;as=KIND",
	"application/cbor;v=v1beta1;g=config.k8s.io;as=KIND", "application/vnd.kubernetes.protobuf;v=v1beta1;g=config.k8s.io;as=KIND",
	"application/*;v=v1beta1;g=config.k8s.io;as=KIND", "*/*;v=v1beta1;g=config.k8s.io;as=KIND",
	"application/json;v=v1beta1;g=config.k8s.io;as=KIND;pretty=1", "application/json;v=v1beta1;g=config.k8s.io;as=KIND;stream=watch",
	"application/json;v=v1beta1;g=config.k8s.io;as=KIND;sv=v1", "application/json;v=v1beta1;g=config.k8s.io;as=KIND;other=1",
	"application/json", "application/yaml", "application/*", "application/xml", "application/json;as=KIND", "application/json;v=v1beta1;g=config.k8s.io",
	"application/json;v=v1;g=config.k8s.io;as=KIND", "application/json;v=v1beta1;g=example.org;as=KIND", "application/json;v=v1beta1;g=config.k8s.io;as=Foo",
	"application/json;v=v9;g=config.k8s.io;as=KIND,*/*", "text/plain;q=0.5,application/yaml;v=v1beta1;g=config.k8s.io;as=KIND",
	"application/yaml;q=0.2,application/json;q=0.9", "application/json;v=v1beta1;g=config.k8s.io;as=KIND;q=0.1,text/plain;q=0.9",
	"application", ";", ",", "*", "a/b/c",
}

// TestZPagesOfKubeProxy: for every Accept header, /statusz and /flagz of nfproxy have the status, the content type, the warning and the
// structure of the real kube-proxy's. Flags that both have are shown with the same values.
func TestZPagesOfKubeProxy(t *testing.T) {
	c := New(t)
	c.ApplyAll(ReadManifest(t, KubeadmManifest))
	const path, accept = "/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz"
	var pages [2]map[string]zPage
	var flags [2]map[string]any
	for i, component := range []string{"kube-proxy", "nfproxy"} {
		var p *Process
		if component == "kube-proxy" {
			p = c.StartKubeProxy(KubeadmConfigFiles(t, NftablesMode))
		} else {
			p = c.startAgent()
		}
		AwaitAnswer(t, 10249, "/healthz", 200, "ok")
		pages[i] = allZPages(t, component)
		_, body := fetchZPage(t, path, accept, "")
		flags[i], _ = parseObject(t, body)["flags"].(map[string]any)
		p.End(syscall.SIGTERM)
	}
	if diff := cmp.Diff(pages[0], pages[1]); diff != "" {
		t.Errorf("nfproxy's pages differ from kube-proxy's (-kube-proxy +nfproxy):\n%s", diff)
	}
	different := []string{"config", "kubeconfig", "cluster-cidr", "conntrack-max-per-core", "oom-score-adj"} // on the command lines
	common := 0
	for name, want := range flags[0] {
		if got, ok := flags[1][name]; ok && !slices.Contains(different, name) {
			if common++; got != want {
				t.Errorf("--%s is %q in nfproxy's /flagz and %q in kube-proxy's", name, got, want)
			}
		}
	}
	if common < 15 {
		t.Errorf("only %d common flags in\n%v\n%v", common, flags[0], flags[1])
	}
}

// TestZPagesGates: feature gates in a KubeProxyConfiguration remove /statusz and /flagz from nfproxy as from the real kube-proxy.
func TestZPagesGates(t *testing.T) {
	c := New(t)
	c.ApplyAll(ReadManifest(t, KubeadmManifest))
	for gates, want := range map[string][2]int{
		"{ComponentStatusz: false}":                {404, 200},
		"{ComponentFlagz: false}":                  {200, 404},
		"{AllBeta: false, ComponentStatusz: true}": {200, 404},
	} {
		files := KubeadmConfigFiles(t, NftablesMode)
		files["config.conf"] += "\nfeatureGates: " + gates + "\n"
		kubeconfig := c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy"))
		ours := map[string]string{"config.conf": strings.NewReplacer("/var/lib/kube-proxy/kubeconfig.conf", kubeconfig,
			"maxPerCore: null", "maxPerCore: 0", "oomScoreAdj: null", "oomScoreAdj: 0").Replace(files["config.conf"])}
		for component, start := range map[string]func() *Process{
			"kube-proxy": func() *Process { return c.StartKubeProxy(files) },
			"nfproxy": func() *Process {
				return StartDaemon(t, "run", "--config", DirWithFiles(t, ours)+"/config.conf", "--hostname-override", NodeName)
			},
		} {
			p := start()
			AwaitAnswer(t, 10249, "/healthz", 200, "ok")
			statusz, _ := Fetch(10249, "/statusz")
			flagz, _ := Fetch(10249, "/flagz")
			if statusz != want[0] || flagz != want[1] {
				t.Errorf("%s with %s: /statusz %d, /flagz %d, want %v", component, gates, statusz, flagz, want)
			}
			p.End(syscall.SIGTERM)
		}
	}
}

// allZPages returns the answers of a component to all requests.
func allZPages(t *testing.T, component string) map[string]zPage {
	t.Helper()
	all := make(map[string]zPage)
	for _, kind := range []string{"Statusz", "Flagz"} {
		for _, accept := range acceptHeaders {
			for _, agent := range []string{"Go-http-client/1.1", "curl/8.0"} {
				path := "/" + strings.ToLower(kind)
				response, body := fetchZPage(t, path, strings.ReplaceAll(accept, "KIND", kind), agent)
				all[path+" "+accept+" for "+agent] = zPage{
					Status:      response.StatusCode,
					ContentType: response.Header.Get("Content-Type"),
					Warning:     response.Header.Get("Warning"),
					Indented:    strings.Contains(body, "\n  "),
					Body:        withoutDifferences(t, component, response, body),
				}
			}
		}
	}
	return all
}

func fetchZPage(t *testing.T, path, accept, agent string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:10249"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header["Accept"] = []string{accept}
	request.Header.Set("User-Agent", agent)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func parseObject(t *testing.T, body string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(body), &object); err != nil {
		t.Fatalf("%v:\n%s", err, body)
	}
	return object
}

var (
	statuszLine = regexp.MustCompile(`(?m)^(Started|Up|Go version|Binary version|Emulation version|Paths)(?:: |:|=| ) (.*)$`)
	flagzLine   = regexp.MustCompile(`(?m)^[a-z0-9-]+(:|: |=| ).*\n`)
)

// withoutDifferences returns the body without what is different by nature: the name of the component, versions, times, the values of flags, and
// nfproxy's own /readyz.
func withoutDifferences(t *testing.T, component string, response *http.Response, body string) any {
	t.Helper()
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain") {
		body = strings.Replace(body, component, "COMPONENT", 1)
		body = statuszLine.ReplaceAllStringFunc(body, func(line string) string {
			switch m := statuszLine.FindStringSubmatch(line); m[1] {
			case "Emulation version":
				return ""
			case "Paths":
				return "Paths " + strings.Replace(m[2], " /readyz", "", 1)
			default:
				return m[1]
			}
		})
		return flagzLine.ReplaceAllString(body, "")
	}
	object := parseObject(t, body)
	if object["kind"] == "Status" {
		return object
	}
	if object["metadata"].(map[string]any)["name"] == component {
		object["metadata"] = "COMPONENT"
	}
	for name, value := range object {
		switch name {
		case "startTime", "uptimeSeconds", "goVersion", "binaryVersion", "flags":
			object[name] = fmt.Sprintf("%T", value)
		case "paths":
			object[name] = slices.DeleteFunc(value.([]any), func(path any) bool { return path == "/readyz" })
		}
	}
	delete(object, "emulationVersion")
	return object
}
