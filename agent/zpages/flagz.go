package zpages

import (
	"maps"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// flagz is the object of /flagz (k8s.io/apiserver/pkg/server/flagz/api).
type flagz struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Flags             map[string]string `json:"flags,omitempty"`
}

// Flagz returns the handler of /flagz. flags are the values of the flags, by name, without secrets.
func Flagz(flags map[string]string) http.Handler {
	return page{
		name: "flagz",
		kind: "Flagz",
		lines: func() (lines [][2]string) {
			for _, name := range slices.Sorted(maps.Keys(flags)) {
				lines = append(lines, [2]string{name, flags[name]})
			}
			return lines
		},
		object: func(kind metav1.TypeMeta, meta metav1.ObjectMeta) any { return flagz{kind, meta, flags} },
	}
}
