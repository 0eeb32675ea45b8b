//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"nfproxy/sandbox"
)

// addBackends adds the Pods of all backends. Each address answers every line over TCP and every datagram over UDP with
// itself. The sockets stay open until the process ends.
func addBackends(network *sandbox.Network) error {
	for pod := range backendPods {
		var addrs []netip.Addr
		for i := range backendsPerPod {
			for family := range podNetworks {
				addrs = append(addrs, backendAddr(pod*backendsPerPod+i, family))
			}
		}
		added, err := network.AddPod(fmt.Sprintf("backend-%d", pod), addrs...)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			if err := serve(added, netip.AddrPortFrom(addr, backendPort)); err != nil {
				return err
			}
		}
	}
	return nil
}

// serve opens the sockets of one address.
func serve(pod *sandbox.Pod, at netip.AddrPort) error {
	listener, err := pod.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	packets, err := pod.ListenPacket("udp", at.String())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	answer := []byte(at.Addr().String() + "\n")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answerLines(conn, answer)
		}
	}()
	go answerPackets(packets, answer)
	return nil
}

// answerLines answers every line until the client closes the connection.
func answerLines(conn net.Conn, answer []byte) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// answerPackets answers every datagram.
func answerPackets(packets net.PacketConn, answer []byte) {
	for buffer := make([]byte, 64); ; {
		_, from, err := packets.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = packets.WriteTo(answer, from) // an error is as if the datagram were lost
		}
	}
}
