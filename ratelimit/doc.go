// Package ratelimit limits how often something is done or logged about each of many objects, so that an object that a client edits all
// the time does not fill the log or the API.
//
// Limiter (limiter.go) decides about one object at a time. Log (log.go) is a log with a Limiter for its lines. NewHandler (handler.go)
// limits the lines of a library.
package ratelimit
