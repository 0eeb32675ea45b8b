package watcher

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// causeKey is the key of a context value of type *error by which watchTransport recognises a watch and returns the error of the
// request, because client-go hides it.
type causeKey struct{}

// withCause marks the requests of a watch. If one fails, its error is stored in cause.
func withCause(ctx context.Context, cause *error) context.Context {
	return context.WithValue(ctx, causeKey{}, cause)
}

// watchTransport reports how watches fail in the way that suits a reflector.
type watchTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t watchTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	cause, watch := r.Context().Value(causeKey{}).(*error)
	if !watch {
		return response, err
	}
	*cause = err
	if err == nil {
		response.Body = watchBody{response.Body}
	}
	return response, err
}

// watchBody reports every lost connection as io.ErrUnexpectedEOF, after which a reflector continues the watch where it ended. It
// does not know some errors, such as that of an unanswered ping, and then makes a pause and requests all objects again.
type watchBody struct{ io.ReadCloser }

func (b watchBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
