package zpages

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
)

// The media types of the pages, in the order in which kube-proxy tries them.
const (
	mediaJSON = "application/json"
	mediaYAML = "application/yaml"
	mediaText = "text/plain"
)

// The group and the versions of the objects.
const (
	group      = "config.k8s.io"
	current    = "v1beta1"
	deprecated = "v1alpha1"
)

// target is the object that a clause of an Accept header asks for with the parameters g, v and as. The zero value is the answer as
// it is: text, or an error.
type target struct{ group, version, kind string }

// form is the form of an answer.
type form struct {
	mediaType string
	target
	pretty bool
}

// negotiate returns the first form that an Accept header asks for and that is offered. It has the rules of kube-proxy
// (k8s.io/apiserver/pkg/endpoints/handlers/negotiation): a clause without the parameters g, v and as does not ask for an object,
// and unknown parameters have no effect.
func negotiate(accept string, offered func(form) bool) (form, bool) {
	for _, clause := range goautoneg.ParseAccept(accept) {
		for _, media := range []string{mediaJSON, mediaYAML, mediaText} {
			if !matches(clause, media) || clause.Params["sv"] != "" || clause.Params["stream"] != "" {
				continue
			}
			f := form{media, target{clause.Params["g"], clause.Params["v"], clause.Params["as"]}, clause.Params["pretty"] == "1"}
			if offered(f) {
				return f, true
			}
		}
	}
	return form{}, false
}

// matches reports whether a clause of an Accept header includes a media type.
func matches(clause goautoneg.Accept, media string) bool {
	kind, sub, _ := strings.Cut(media, "/")
	return clause.Type == "*" && clause.SubType == "*" || clause.Type == kind && (clause.SubType == "*" || clause.SubType == sub)
}

// wantsPretty reports whether the client is a person: by the query parameter, or by the name of a browser, curl or wget.
func wantsPretty(r *http.Request) bool {
	if text := r.URL.Query().Get("pretty"); text != "" {
		pretty, _ := strconv.ParseBool(text)
		return pretty
	}
	for _, prefix := range []string{"curl", "Wget", "Mozilla/5.0"} {
		if strings.HasPrefix(r.UserAgent(), prefix) {
			return true
		}
	}
	return false
}
