//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nfproxy/integration/machine"
	"nfproxy/sandbox"
)

const (
	connectTimeout = 10 * time.Second
	datagramWait   = 900 * time.Millisecond // before a datagram is repeated
	// slowConnect is less than the second after which the kernel repeats the first packet of a TCP connection.
	slowConnect = 900 * time.Millisecond
	clientPause = 50 * time.Millisecond
)

// Numbers of clients for each class, each in a Pod of its own, and of connections that stay open.
const (
	clientsPerClass = 4
	openConnections = 16
)

// tally counts the connections to the Services of one class.
type tally struct{ connects, failed, slow atomic.Int64 }

// clients connect to random Services all the time.
type clients struct {
	population
	failures *failureLog
	pods     []*sandbox.Pod
	tallies  [passing]tally // by class; no client connects to Services of class passing
	resent   atomic.Int64   // datagrams that were repeated because no answer came
	broken   atomic.Int64   // open connections that broke
	answers  atomic.Int64   // over open connections
}

// newClients adds the Pods of the clients.
func newClients(network *sandbox.Network, p population, failures *failureLog) (*clients, error) {
	c := &clients{population: p, failures: failures}
	for i := range int(passing) * clientsPerClass {
		var addrs []netip.Addr
		for family := range podNetworks {
			addrs = append(addrs, numbered(podNetworks[family], 0x2000+uint32(i)))
		}
		pod, err := network.AddPod(fmt.Sprintf("client-%d", i), addrs...)
		if err != nil {
			return nil, err
		}
		c.pods = append(c.pods, pod)
	}
	return c, nil
}

// run runs the clients until ctx ends.
func (c *clients) run(ctx context.Context) {
	var running sync.WaitGroup
	for i, pod := range c.pods {
		of := class(i % int(passing))
		running.Go(func() { c.connectUntil(ctx, pod, of) })
		if of != calm {
			continue
		}
		for j := range openConnections / clientsPerClass {
			running.Go(func() { c.stayOpen(ctx, pod, i*openConnections+j) })
		}
	}
	running.Wait()
}

// repeatedSYNs returns how many first packets of TCP connections the clients' kernels have repeated so far. Unlike slow
// connects, they show lost packets however busy the machine is.
func (c *clients) repeatedSYNs() (float64, error) {
	total := 0.0
	for _, pod := range c.pods {
		err := pod.Do(func() error {
			n, err := machine.TCPCounter("TCPSynRetrans")
			total += n
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// connectUntil connects to random Services of a class until ctx ends.
func (c *clients) connectUntil(ctx context.Context, from *sandbox.Pod, of class) {
	for ctx.Err() == nil {
		s := service(c.first(of) + rand.IntN(c.count(of)))
		family := 0
		if s.dualStack() {
			family = rand.IntN(2)
		}
		start := time.Now()
		err := c.connect(from, s, family)
		c.tallies[of].connects.Add(1)
		if err != nil {
			c.tallies[of].failed.Add(1)
			c.failures.add("%s %s %s: %v", of, s.name(), s.frontend(family), err)
		} else if time.Since(start) > slowConnect {
			c.tallies[of].slow.Add(1)
		}
		time.Sleep(clientPause)
	}
}

// connect makes one connection, or sends one datagram until it is answered. It returns an error unless a backend of the
// Service answers.
func (c *clients) connect(from *sandbox.Pod, s service, family int) error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	network := "tcp"
	if s.udp() {
		network = "udp"
	}
	conn, err := from.Dial(ctx, network, "", s.frontend(family).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	answer := ""
	if s.udp() {
		answer, err = c.askPackets(conn)
	} else {
		answer, err = askLines(conn, bufio.NewReader(conn))
	}
	if err != nil {
		return err
	}
	return checkAnswer(s, answer)
}

// checkAnswer returns an error unless the answer is the address of a backend of the Service.
func checkAnswer(s service, answer string) error {
	addr, err := netip.ParseAddr(strings.TrimSpace(answer))
	if err == nil && !s.serves(addr) {
		err = fmt.Errorf("%s answers, which is no backend of the Service", addr)
	}
	return err
}

// askLines sends a line and returns the answer.
func askLines(conn net.Conn, answers *bufio.Reader) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "who\n"); err != nil {
		return "", err
	}
	return answers.ReadString('\n')
}

// askPackets sends a datagram until it is answered.
func (c *clients) askPackets(conn net.Conn) (string, error) {
	buffer := make([]byte, 64)
	for start := time.Now(); ; {
		if _, err := io.WriteString(conn, "who\n"); err != nil {
			return "", err
		}
		if err := conn.SetReadDeadline(time.Now().Add(datagramWait)); err != nil {
			return "", err
		}
		n, err := conn.Read(buffer)
		if err == nil {
			return string(buffer[:n]), nil
		}
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() || time.Since(start) > connectTimeout {
			return "", err
		}
		c.resent.Add(1)
	}
}

// stayOpen keeps a connection to a calm Service open and uses it once a second until ctx ends. A connection that breaks is
// replaced.
func (c *clients) stayOpen(ctx context.Context, from *sandbox.Pod, number int) {
	s := service(number % c.count(calm))
	for s.udp() {
		s = (s + 1) % service(c.count(calm))
	}
	for ctx.Err() == nil {
		if err := c.useConnection(ctx, from, s); err != nil {
			c.broken.Add(1)
			c.failures.add("open connection to %s: %v", s.name(), err)
			time.Sleep(time.Second)
		}
	}
}

// useConnection opens a connection and uses it until ctx ends or it breaks.
func (c *clients) useConnection(ctx context.Context, from *sandbox.Pod, s service) error {
	limited, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	conn, err := from.Dial(limited, "tcp", "", s.frontend(0).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for ctx.Err() == nil {
		answer, err := askLines(conn, answers)
		if err == nil {
			err = checkAnswer(s, answer)
		}
		if err != nil {
			return err
		}
		c.answers.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}
