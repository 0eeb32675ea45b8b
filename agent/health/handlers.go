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

// Content types, as kube-proxy says them.
const (
	plainText = "text/plain; charset=utf-8"
	jsonText  = "application/json"
)

// writeAnswer answers with a body whose type is not to be guessed.
func writeAnswer(w http.ResponseWriter, code int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(body) // who does not wait for the answer does not need it
}

// always answers everybody the same.
func always(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeAnswer(w, http.StatusOK, contentType, body) }
}

// healthzHandler is the node's health.
func healthzHandler(m *metrics.Recorder, h *Node) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		code, body := h.healthz()
		m.HealthzAnswered(code)
		writeAnswer(w, code, jsonText, body)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		code, body := h.livez()
		m.LivezAnswered(code)
		writeAnswer(w, code, jsonText, body)
	})
	mux.HandleFunc("/readyz", readyz(h))
	return mux
}

func readyz(h *Node) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		code, body := h.readyz()
		writeAnswer(w, code, plainText, body)
	}
}

// metricsHandler is all that concerns the process (cmd/kube-proxy/app/server.go, serveMetrics). Its /healthz says that
// the process answers, no more. inUse is the configuration, for /configz.
func metricsHandler(m *metrics.Recorder, h *Node, inUse any, profiling bool, log *slog.Logger) (http.Handler, error) {
	shown, err := json.Marshal(map[string]any{v1alpha1.GroupName: inUse})
	if err != nil {
		return nil, fmt.Errorf("the configuration for /configz: %w", err)
	}
	mux := http.NewServeMux()
	if m != nil {
		mux.Handle("/metrics", m.Handler(log))
	}
	mux.HandleFunc("/healthz", ping)
	mux.HandleFunc("/healthz/ping", always(plainText, []byte("ok")))
	mux.HandleFunc("/readyz", readyz(h))
	mux.HandleFunc("/proxyMode", always(plainText, []byte("nftables")))
	mux.HandleFunc("/configz", always(jsonText, shown))
	if profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux, nil
}

// configz is the configuration in use as /configz shows it.
func Configz(set config.Settings) any {
	set.Effective.APIVersion, set.Effective.Kind = v1alpha1.SchemeGroupVersion.String(), "KubeProxyConfiguration"
	return set.Effective
}

// ping says ok, or what it has looked at, if it is asked to be verbose: nothing (k8s.io/apiserver/pkg/server/healthz).
func ping(w http.ResponseWriter, r *http.Request) {
	body := "ok"
	if r.URL.Query().Has("verbose") {
		body = "[+]ping ok\nhealthz check passed\n"
	}
	writeAnswer(w, http.StatusOK, plainText, []byte(body))
}
