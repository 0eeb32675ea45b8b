// Package apichaos tests nfproxy with faults between it and a real API server: connections that are silent, refused, slow or cut,
// responses that deny a request, an API server that lags behind another, and rotated credentials.
//
// Every fault has an nfproxy of its own, in a network namespace of its own, which reaches the API server only through a relay or a
// proxy of the test. All of them run at the same time, because most of the time passes with waiting.
package apichaos
