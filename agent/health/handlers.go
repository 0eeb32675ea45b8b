package health

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/agent/metrics"
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
// serveMetrics). Its /healthz always succeeds. configz is the value that /configz shows.
func metricsHandler(m *metrics.Recorder, n *Node, configz any, profiling bool, log *slog.Logger) (http.Handler, error) {
	configzBody, err := json.Marshal(map[string]any{v1alpha1.GroupName: configz})
	if err != nil {
		return nil, fmt.Errorf("encode configuration for /configz: %w", err)
	}
	mux := http.NewServeMux()
	if m != nil {
		mux.Handle("/metrics", m.Handler(log))
	}
	mux.HandleFunc("/healthz", pingHandler)
	mux.HandleFunc("/healthz/ping", fixedResponse(plainText, []byte("ok")))
	mux.HandleFunc("/readyz", readyzHandler(n))
	mux.HandleFunc("/proxyMode", fixedResponse(plainText, []byte("nftables")))
	mux.HandleFunc("/configz", fixedResponse(jsonText, configzBody))
	if profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux, nil
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
