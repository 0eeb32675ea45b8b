package zpages

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// component is the name of the program on the pages.
const component = "nfproxy"

// page is a z-page. A request that names the group, a version and the kind of its object in the Accept header gets the object; one
// that accepts text, or has no Accept header, gets text.
type page struct {
	name string // of the path
	kind string // of the object
	// lines are the lines of the text: names and values. An empty name is an empty line.
	lines func() [][2]string
	// object returns the object. It has the same fields in every version.
	object func(metav1.TypeMeta, metav1.ObjectMeta) any
}

func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accept := r.Header.Get("Accept")
	if strings.TrimSpace(accept) == "" {
		p.writeText(w)
		return
	}
	switch f, ok := negotiate(accept, p.offers); {
	case !ok:
		refuse(w, r, accept)
	case f.mediaType == mediaText:
		p.writeText(w)
	default:
		if f.version == deprecated {
			w.Header().Set("Warning", fmt.Sprintf(`299 - "This version of the %s endpoint is deprecated. Please use a newer version."`, p.name))
		}
		meta := metav1.TypeMeta{Kind: p.kind, APIVersion: group + "/" + f.version}
		f.pretty = f.pretty || wantsPretty(r)
		contentType := fmt.Sprintf("%s;g=%s;v=%s;as=%s", f.mediaType, f.group, f.version, f.kind)
		write(w, http.StatusOK, contentType, f, p.object(meta, metav1.ObjectMeta{Name: component}))
	}
}

// offers reports whether the page has a form.
func (p page) offers(f form) bool {
	if f.mediaType == mediaText {
		return f.target == target{}
	}
	return f.target == target{group, current, p.kind} || f.target == target{group, deprecated, p.kind}
}

// writeText writes the page as text. The delimiter of names and values is drawn at random, as in kube-proxy, so that no program
// relies on it.
func (p page) writeText(w http.ResponseWriter) {
	delimiters := []string{":", ": ", "=", " "}
	delimiter := delimiters[rand.IntN(len(delimiters))]
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s %s\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees "+
		"and is for debugging purposes only.\n", component, p.name)
	for _, line := range p.lines() {
		if line[0] != "" {
			b.WriteString(line[0] + delimiter + line[1])
		}
		b.WriteByte('\n')
	}
	respond(w, http.StatusOK, mediaText+"; charset=utf-8", []byte(b.String()))
}

// refuse answers a request that accepts no form of a page, with a Status. If the request accepts no form of the Status either, that
// is JSON.
func refuse(w http.ResponseWriter, r *http.Request, accept string) {
	const code = http.StatusNotAcceptable
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure,
		Message:  "only the following media types are accepted: " + strings.Join([]string{mediaJSON, mediaYAML, mediaText}, ", "),
		Reason:   metav1.StatusReasonNotAcceptable,
		Code:     code,
	}
	f, ok := negotiate(accept, func(f form) bool { return f.mediaType != mediaText && f.target == target{} })
	if ok {
		f.pretty = f.pretty || wantsPretty(r)
	} else {
		f = form{mediaType: mediaJSON, pretty: true}
	}
	write(w, code, f.mediaType, f, status)
}

// write writes an object in a form.
func write(w http.ResponseWriter, code int, contentType string, f form, object any) {
	body, err := encode(f, object)
	if err != nil { // a year after 9999
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	respond(w, code, contentType, body)
}

func encode(f form, object any) ([]byte, error) {
	switch {
	case f.mediaType == mediaYAML:
		return yaml.Marshal(object)
	case f.pretty:
		return json.MarshalIndent(object, "", "  ")
	}
	body, err := json.Marshal(object)
	return append(body, '\n'), err
}

// respond writes a response and tells the client not to guess its content type.
func respond(w http.ResponseWriter, code int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(body) // an error means that the client is gone
}
