package watcher

import (
	"errors"
	"math"
	"net"
	"net/http"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
)

// pace bounds the duration of requests to the API server and the time between them.
type pace struct {
	// backoff is the pause between attempts after a failure. If a response demands a pause (Retry-After), the attempt ends after
	// it, or after heed if that is shorter.
	backoff *wait.Backoff
	heed    time.Duration
	// repeat is the time between the watch requests of one resource in the long run. burst requests may follow each other
	// immediately. A reflector repeats some requests without its backoff: after 410 Gone, after 504 with the cause "too large
	// resource version", and after a stream that ended before its initial objects were complete.
	repeat time.Duration
	burst  int
	// dial limits the time to establish a TCP connection. The kernel repeats a SYN after 1, 3 and 7 seconds
	// (Linux TCP_TIMEOUT_INIT), so a long attempt notices later than several short ones that the server is reachable again.
	dial time.Duration
	// A connection on which nothing has arrived for idle is checked, by an HTTP/2 ping and by TCP keepalives, and closed if
	// there is no answer within ping. client-go's values are 30 and 15 seconds.
	idle, ping time.Duration
	// answer limits the time until a response begins. kube-apiserver ends its other requests after a minute
	// (--request-timeout), and a proxy that withholds the headers of a watch until its first event gets a bookmark within
	// 75 seconds.
	answer time.Duration
	// list limits the time until a list is complete. A watch has a limit too: the time that the request asks for, and answer.
	list time.Duration
}

// maxPause is the longest pause between two attempts to reach the API server. client-go's default goes up to a minute, too
// long for a node that needs current Services.
const maxPause = 10 * time.Second

// newPace returns the pace for an API server that serves thousands of nodes.
func newPace() pace {
	const jitter = 0.5 // spreads the requests of the nodes; it is added to the pause
	longest := float64(maxPause) / (1 + jitter)
	return pace{
		backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: jitter, Steps: math.MaxInt32, Cap: time.Duration(longest)},
		heed:    maxPause,
		repeat:  5 * time.Second,
		burst:   10,
		dial:    10 * time.Second,
		idle:    10 * time.Second,
		ping:    5 * time.Second,
		answer:  90 * time.Second,
		list:    5 * time.Minute,
	}
}

// dialer returns a dialer whose TCP keepalives notice an unreachable peer as fast as the pings do. They matter for HTTP/1.1.
func (p pace) dialer() *net.Dialer {
	const probes = 3
	return &net.Dialer{
		Timeout:         p.dial,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: p.idle, Interval: p.ping / probes, Count: probes},
	}
}

// limit sets the timeouts of the http.Transport inside a RoundTripper of client-go, which has no options for them. The
// transport must not be in use yet.
func (p pace) limit(rt http.RoundTripper) error {
	for {
		switch outer := rt.(type) {
		case *http.Transport:
			outer.ResponseHeaderTimeout = p.answer
			outer.HTTP2 = &http.HTTP2Config{SendPingTimeout: p.idle, PingTimeout: p.ping, WriteByteTimeout: p.ping}
			return nil
		case utilnet.RoundTripperWrapper:
			rt = outer.WrappedRoundTripper()
		default:
			return errors.New("the HTTP client has no http.Transport")
		}
	}
}
