package datapath

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	serverProgram = "datapath-server"
	serverPort    = 8080
)

// response is what the server sends to every TCP client: enough for ab. Its clients send a request that fits into one segment.
const response = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"

// serverMain is a program that answers TCP and UDP clients at every address of its network namespace, one after the other. It
// prints a line when it is ready.
func serverMain() {
	udp, err := listenUDP()
	if err == nil {
		go func() { fail(serveUDP(udp)) }()
		var tcp int
		if tcp, err = listenTCP(); err == nil {
			fmt.Println("ready")
			err = serveTCP(tcp)
		}
	}
	fail(err)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func listenTCP() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: serverPort})
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	return fd, err
}

// serveTCP reads once from each connection, responds and closes it.
func serveTCP(fd int) error {
	runtime.LockOSThread()
	request, answer := make([]byte, 4096), []byte(response)
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if n, err := unix.Read(conn, request); err == nil && n > 0 { // otherwise the client has gone
			_, _ = unix.Write(conn, answer)
		}
		unix.Close(conn)
	}
}

// listenUDP returns a socket that reports to which address a datagram was sent.
func listenUDP() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: serverPort})
	}
	return fd, err
}

// serveUDP returns each datagram from the address to which it was sent (IP_PKTINFO in ip(7)).
func serveUDP(fd int) error {
	runtime.LockOSThread()
	datagram, control := make([]byte, 2048), make([]byte, unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	for {
		n, oobn, _, from, err := unix.Recvmsg(fd, datagram, control, 0)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if err := unix.Sendmsg(fd, datagram[:n], control[:oobn], from, 0); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}
