package watcher

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"nfproxy/render"
)

// The annotations of EndpointSlices.
const (
	annotationWeight       = "nfproxy.io/weight"
	annotationWeightCilium = "service.cilium.io/weight"
)

// The annotations of Services.
const (
	annotationAlgorithm       = "nfproxy.io/lb-algorithm"
	annotationAlgorithmCilium = "service.cilium.io/lb-algorithm"
	annotationHashOn          = "nfproxy.io/hash-on"
	annotationSlowStart       = "nfproxy.io/slow-start"
)

// annotationField is how the path of the field of an annotation begins.
const annotationField = "metadata.annotations["

// ignoredAnnotations returns those of some problems that are about annotations.
func ignoredAnnotations(problems []Problem) (all []render.IgnoredAnnotation) {
	for _, p := range problems {
		if strings.HasPrefix(p.Field, annotationField) {
			all = append(all, render.IgnoredAnnotation{Object: p.Object, Field: p.Field, Detail: p.Detail})
		}
	}
	return all
}

// annotated returns the value of the first of some annotations that an object has, with the path of its field.
func annotated(annotations map[string]string, names ...string) (value, field string, ok bool) {
	for _, name := range names {
		if value, ok = annotations[name]; ok {
			return value, annotationField + name + "]", true
		}
	}
	return "", "", false
}

// reduceHashing returns what the choice of an endpoint follows from, by the annotations of a Service.
func reduceHashing(annotations map[string]string, problems problemList) render.Hashing {
	algorithm, field, _ := annotated(annotations, annotationAlgorithm, annotationAlgorithmCilium)
	hashOn, fieldOfHash, hashes := annotated(annotations, annotationHashOn)
	switch algorithm {
	case "maglev":
	case "", "random":
		if hashes {
			problems.add(fieldOfHash, fmt.Sprintf("%q has no effect without %s: maglev", hashOn, annotationAlgorithm))
		}
		return render.NoHashing
	default:
		problems.add(field, fmt.Sprintf("%q is neither random nor maglev; endpoints are chosen at random", algorithm))
		return render.NoHashing
	}
	switch hashOn {
	case "", "client":
		return render.HashClients
	case "connection":
		return render.HashConnections
	}
	problems.add(fieldOfHash, fmt.Sprintf("%q is neither client nor connection; clients are hashed", hashOn))
	return render.HashClients
}

// reduceSlowStart returns how long the weights of new endpoints of a Service grow, 0 if they do not.
func reduceSlowStart(annotations map[string]string, problems problemList) time.Duration {
	text, field, ok := annotated(annotations, annotationSlowStart)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d != 0 && (d < time.Second || d > render.MaxSlowStart) {
		problems.add(field, fmt.Sprintf("%q is neither 0 nor a time from 1s to 1h, such as 60s; endpoints have their whole weight at once", text))
		return 0
	}
	return d
}

// weight is what an EndpointSlice says of the weight of its endpoints: see render.Endpoint. The zero value is the default.
type weight struct {
	share   uint16
	drained bool
}

// disagreements returns the problems of an EndpointSlice, which may be nil, that has an address with another weight than another slice
// of the Service: one for each such slice, with the first address.
func disagreements(s *slice, all []*slice) (problems []Problem) {
	if s == nil {
		return nil
	}
	list := newProblemList(&problems, objectKey{sliceKind, s.namespace, s.name})
	for _, other := range all {
		if other.name == s.name || other.weight == s.weight {
			continue
		}
		for _, e := range s.endpoints {
			if _, shared := other.find(e.Addr()); shared {
				list.add(annotationField+annotationWeight+"]",
					fmt.Sprintf("%s is also in EndpointSlice %s, with another weight; the smaller one holds", e.Addr(), other.name))
				break
			}
		}
	}
	return problems
}

// reduceWeight returns the weight in an EndpointSlice, the default if there is none or it is invalid.
func reduceWeight(annotations map[string]string, problems problemList) weight {
	text, field, ok := annotated(annotations, annotationWeight, annotationWeightCilium)
	if !ok {
		return weight{}
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > render.MaxWeight {
		problems.add(field, fmt.Sprintf("%q is not a weight from 0 to %d; the endpoints get weight 1", text, render.MaxWeight))
		return weight{}
	}
	return weight{share: uint16(n), drained: n == 0}
}
