package demo

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"nfproxy/sandbox"
)

// network is a node with a client and with backends that serve HTTP.
type network struct {
	*sandbox.Network
	client  *sandbox.Pod
	servers map[string]*http.Server // by the backend's address
}

// newNetwork returns a network with a client, whose node is the current network namespace.
func newNetwork() (*network, error) {
	node, err := sandbox.Current()
	if err != nil {
		return nil, err
	}
	box, err := sandbox.NewNetwork(node, netip.MustParseAddr("192.0.2.10"))
	if err != nil {
		return nil, err
	}
	n := &network{Network: box, servers: make(map[string]*http.Server)}
	if n.client, err = n.AddPod("client", netip.MustParseAddr(clientAddr)); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// addBackend adds a Pod that answers requests with its address. The Pod rejects connections that do not come from the
// client's address, because they must have been masqueraded.
func (n *network) addBackend(svc *service, backend string) error {
	at, err := svc.at(backend)
	if err != nil {
		return err
	}
	pod, err := n.AddPod(backend, at.Addr())
	if err != nil {
		return err
	}
	listener, err := pod.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || from.Addr().String() != clientAddr {
			http.Error(w, fmt.Sprintf("%s was reached from %s, not from the client", backend, r.RemoteAddr), http.StatusForbidden)
			return
		}
		fmt.Fprint(w, greeting, backend)
	})}
	n.servers[backend] = server
	go server.Serve(listener) // ends when the server is closed
	return nil
}

// greeting is the beginning of a backend's response; its address follows.
const greeting = "Hello! I am Pod: "

// stop stops a backend; the Pod then refuses connections.
func (n *network) stop(backend string) error { return n.servers[backend].Close() }

// Close stops the backends and removes the network.
func (n *network) Close() error {
	var errs []error
	for _, s := range n.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errors.Join(errs...), n.Network.Close())
}
