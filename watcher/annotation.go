package watcher

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"nfproxy/render"
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

// annotationPrefix is how the names of nfproxy's own annotations begin.
const annotationPrefix = "nfproxy.io/"

// knownAnnotations returns nfproxy's annotations of a kind of object.
func knownAnnotations(kind string) []string {
	if kind == sliceKind {
		return []string{annotationWeight}
	}
	return []string{annotationAlgorithm, annotationHashOn, annotationSlowStart, annotationRate, annotationClientRate, annotationOverLimit}
}

// reportUnknown records nfproxy's annotations that an object of a kind cannot have: misspelt ones, those of another kind, and those of a
// newer nfproxy.
func reportUnknown(kind string, annotations map[string]string, problems problemList) {
	var unknown []string
	for name := range annotations {
		if strings.HasPrefix(name, annotationPrefix) && !slices.Contains(knownAnnotations(kind), name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		problems.add(annotationField+name+"]", fmt.Sprintf("this version of nfproxy has no such annotation for objects of kind %s; it has no effect", kind))
	}
}

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
	algorithm, field, chosen := annotated(annotations, annotationAlgorithm, annotationAlgorithmCilium)
	hashOn, fieldOfHash, hashes := annotated(annotations, annotationHashOn)
	switch {
	case algorithm == "maglev":
	case chosen && algorithm != "random":
		problems.add(field, fmt.Sprintf("%s is neither random nor maglev; endpoints are chosen at random", quoted(algorithm)))
		return render.NoHashing
	default:
		if hashes {
			problems.add(fieldOfHash, fmt.Sprintf("%s has no effect without %s: maglev", quoted(hashOn), annotationAlgorithm))
		}
		return render.NoHashing
	}
	switch {
	case hashOn == "connection":
		return render.HashConnections
	case hashes && hashOn != "client":
		problems.add(fieldOfHash, fmt.Sprintf("%s is neither client nor connection; clients are hashed", quoted(hashOn)))
	}
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
		problems.add(field, fmt.Sprintf("%s is neither 0 nor a time from 1s to 1h, such as 60s; endpoints have their whole weight at once", quoted(text)))
		return 0
	}
	return d
}
