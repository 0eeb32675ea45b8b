// Package listeners keeps TCP listeners open on behalf of Services.
//
// A Set (set.go) follows a map of addresses and ports to the Services that want them: it opens missing listeners, closes those
// that are no longer wanted, and tries again to bind a port that another program uses. Each listener has a Server, which serves
// its connections (running.go).
package listeners
