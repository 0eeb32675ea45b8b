package health

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/agent/metrics"
	"nfproxy/agent/zpages"
	"nfproxy/config"
)

// The content types that kube-proxy uses.
const (
	plainText = "text/plain; charset=utf-8"
	jsonText  = "application/json"
)

// writeResponse writes a response and tells the client not to guess its content type.
func writeResponse(w http.ResponseWriter, code int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(body) // an error means that the client is gone
}

// fixedResponse returns a handler that always writes the body.
func fixedResponse(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeResponse(w, http.StatusOK, contentType, body) }
}

// healthzHandler returns the handler of the healthz address.
func healthzHandler(m *metrics.Recorder, n *Node) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		code, body := n.healthz()
		m.HealthzAnswered(code)
		writeResponse(w, code, jsonText, body)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		code, body := n.livez()
		m.LivezAnswered(code)
		writeResponse(w, code, jsonText, body)
	})
	mux.HandleFunc("/readyz", readyzHandler(n))
	return mux
}

// readyzHandler returns the handler of /readyz, at both addresses.
func readyzHandler(n *Node) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		code, body := n.readyz()
		writeResponse(w, code, plainText, body)
	}
}

// metricsHandler returns the handler of the metrics address, with the paths of kube-proxy (cmd/kube-proxy/app/server.go,
// serveMetrics). Its /healthz always succeeds. version is nfproxy's, and configz is the value that /configz shows.
func metricsHandler(set config.Settings, version string, m *metrics.Recorder, n *Node, configz any, log *slog.Logger) (http.Handler, error) {
	configzBody, err := json.Marshal(map[string]any{v1alpha1.GroupName: configz})
	if err != nil {
		return nil, fmt.Errorf("encode configuration for /configz: %w", err)
	}
	mux := &listingMux{ServeMux: http.NewServeMux()}
	if m != nil {
		mux.handle("/metrics", m.Handler(log))
	}
	mux.handle("/healthz", http.HandlerFunc(pingHandler))
	mux.handle("/healthz/ping", fixedResponse(plainText, []byte("ok")))
	mux.handle("/readyz", readyzHandler(n))
	mux.handle("/proxyMode", fixedResponse(plainText, []byte("nftables")))
	mux.handle("/configz", fixedResponse(jsonText, configzBody))
	if set.Profiling {
		mux.handle("/debug/pprof/", http.HandlerFunc(pprof.Index))
		mux.handle("/debug/pprof/profile", http.HandlerFunc(pprof.Profile))
		mux.handle("/debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
		mux.handle("/debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	}
	if set.Flagz {
		mux.handle("/flagz", zpages.Flagz(set.Flags))
	}
	if set.Statusz { // the last one: it lists the others
		mux.handle("/statusz", zpages.Statusz(version, mux.paths))
	}
	return mux, nil
}

// listingMux is a ServeMux that lists its paths.
type listingMux struct {
	*http.ServeMux
	paths []string
}

func (m *listingMux) handle(path string, h http.Handler) {
	m.Handle(path, h)
	m.paths = append(m.paths, path)
}

// Configz returns the configuration in use as /configz shows it, a KubeProxyConfiguration of version v1alpha1.
func Configz(set config.Settings) any {
	set.Effective.APIVersion, set.Effective.Kind = v1alpha1.SchemeGroupVersion.String(), "KubeProxyConfiguration"
	return set.Effective
}

// pingHandler answers ok, or with the parameter verbose the list of checks, which has only a ping
// (k8s.io/apiserver/pkg/server/healthz).
func pingHandler(w http.ResponseWriter, r *http.Request) {
	body := "ok"
	if r.URL.Query().Has("verbose") {
		body = "[+]ping ok\nhealthz check passed\n"
	}
	writeResponse(w, http.StatusOK, plainText, []byte(body))
}
