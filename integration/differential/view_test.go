package differential

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"nfproxy/sandbox"
)

// viewAddr is where kube-proxy finds its API server.
const viewAddr = "127.0.0.1:8001"

// serveView serves the API server to kube-proxy, which knows no weights: without the endpoints of weight 0, which are as if they did
// not exist (docs/algorithms.md). All other requests and responses are passed on as they are.
func serveView(t *testing.T, config *rest.Config, ns *sandbox.Namespace) {
	t.Helper()
	transport, err := rest.TransportFor(config)
	check(t, err)
	server, err := url.Parse(config.Host)
	check(t, err)
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, // watch events are passed on at once
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			if isOfSlices(r.In) {
				r.Out.Header.Set("Accept", "application/json")
				r.Out.Header.Del("Accept-Encoding")
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if isOfSlices(r.Request) && r.StatusCode == http.StatusOK {
				r.Body = withoutDrained(r.Body)
				r.Header.Del("Content-Length")
				r.ContentLength = -1
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	listener, err := ns.Listen("tcp4", viewAddr)
	check(t, err)
	view := &http.Server{Handler: proxy}
	t.Cleanup(func() { view.Close() })
	go view.Serve(listener)
}

func isOfSlices(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/endpointslices") }

// withoutDrained returns a response without the endpoints of weight 0: one list, or events of a watch.
func withoutDrained(body io.ReadCloser) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		defer body.Close()
		in, out := json.NewDecoder(body), json.NewEncoder(w)
		in.UseNumber()
		for {
			var value map[string]any
			if err := in.Decode(&value); err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				w.CloseWithError(err)
				return
			}
			items, _ := value["items"].([]any)
			for _, item := range append(items, value["object"]) {
				removeDrained(item)
			}
			if err := out.Encode(value); err != nil { // kube-proxy has closed the connection
				return
			}
		}
	}()
	return r
}

// removeDrained removes the endpoints of an EndpointSlice whose weight is 0.
func removeDrained(object any) {
	slice, _ := object.(map[string]any)
	meta, _ := slice["metadata"].(map[string]any)
	texts, _ := meta["annotations"].(map[string]any)
	annotations := make(map[string]string)
	for name, text := range texts {
		annotations[name], _ = text.(string)
	}
	if weightOf(annotations) == 0 {
		slice["endpoints"] = []any{}
	}
}
