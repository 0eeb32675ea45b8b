package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const clientProgram = "datapath-client"

// order is what a client is asked to do: connections to the targets in turn, one after the other.
type order struct {
	UDP         bool             `json:"udp"`
	Targets     []netip.AddrPort `json:"targets"`
	Connections int              `json:"connections"`
}

// result is what the connections of an order took. A TCP connection is a socket that connects, sends a request, reads the response to
// its end and is reset, so that no port is left in TIME_WAIT; its latency is that of connect(). A UDP connection is a socket that sends
// a datagram from a port of its own and receives one; its latency is the time between both.
type result struct {
	Made    int           `json:"made"` // connections that were answered; the first one that was not ends the order
	Seconds float64       `json:"seconds"`
	CPU     float64       `json:"cpu"` // processor time of the client in seconds, with that of the packets the kernel handles in it
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Error   string        `json:"error,omitempty"`
}

// clientMain is a program that reads orders from its standard input, one per line, and prints their results.
func clientMain() {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // an order allocates little
	orders, results := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var c client
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			fail(err)
		}
		if err := results.Encode(c.do(o)); err != nil {
			fail(err)
		}
		runtime.GC()
	}
}

// client makes connections from successive ports: the kernel's choice repeats some, and a repeated port belongs to the connection
// before in connection tracking.
type client struct {
	port   int
	buffer [4096]byte
}

// answerTimeout limits what a client waits for a response, and a SYN's retransmission is sent after a second.
const answerTimeout = 3 * time.Second

// do carries an order out.
func (c *client) do(o order) result {
	latencies := make([]time.Duration, 0, o.Connections)
	targets := make([]*unix.SockaddrInet4, len(o.Targets))
	for i, t := range o.Targets {
		targets[i] = &unix.SockaddrInet4{Addr: t.Addr().As4(), Port: int(t.Port())}
	}
	connect := c.connectTCP
	if o.UDP {
		connect = c.connectUDP
	}
	start, cpu := time.Now(), threadTime()
	var failed error
	for i := range o.Connections {
		took, err := connect(targets[i%len(targets)])
		if err != nil {
			failed = fmt.Errorf("connection %d, to %s: %w", i, o.Targets[i%len(targets)], err)
			break
		}
		latencies = append(latencies, took)
	}
	r := result{Made: len(latencies), Seconds: time.Since(start).Seconds(), CPU: (threadTime() - cpu).Seconds()}
	if failed != nil {
		r.Error = failed.Error()
		return r
	}
	slices.Sort(latencies)
	rank := func(share float64) time.Duration { return latencies[int(math.Ceil(share*float64(len(latencies))))-1] }
	r.P50, r.P99 = rank(0.5), rank(0.99)
	return r
}

// threadTime returns the processor time of the calling thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		fail(err)
	}
	return time.Duration(ts.Nano())
}

var request = []byte("GET / HTTP/1.0\r\n\r\n")

func (c *client) connectTCP(to *unix.SockaddrInet4) (time.Duration, error) {
	fd, err := c.open(unix.SOCK_STREAM)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := unix.Connect(fd, to); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	took := time.Since(start)
	if _, err := unix.Write(fd, request); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	length := 0
	for {
		n, err := unix.Read(fd, c.buffer[length:])
		if err != nil {
			return 0, fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			break
		}
		length += n
	}
	if string(c.buffer[:length]) != response {
		return 0, fmt.Errorf("the response is %q", c.buffer[:length])
	}
	return took, nil
}

// The ports of clients.
const (
	firstPort = 10_000
	ports     = 50_000
)

func (c *client) connectUDP(to *unix.SockaddrInet4) (time.Duration, error) {
	fd, err := c.open(unix.SOCK_DGRAM)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, to); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	start := time.Now()
	if _, err := unix.Write(fd, request); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	n, err := unix.Read(fd, c.buffer[:])
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("receive: %w", err)
	}
	if string(c.buffer[:n]) != string(request) {
		return 0, fmt.Errorf("the answer is %q", c.buffer[:n])
	}
	return took, nil
}

// open returns a socket with the next port that no other program of the node uses, whose operations fail after a while.
func (c *client) open(kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	bound := unix.EADDRINUSE
	for range ports {
		c.port = (c.port + 1) % ports
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: firstPort + c.port}); err != unix.EADDRINUSE {
			bound, _ = err.(unix.Errno)
			break
		}
	}
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	if bound != 0 {
		err = errors.Join(err, bound)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open a socket at port %d: %w", firstPort+c.port, err)
	}
	return fd, nil
}
