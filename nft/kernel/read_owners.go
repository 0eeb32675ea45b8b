package kernel

// Reading which tables have owners.

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// TableOwners returns the tables of families ip and ip6 in the network namespace, with the port IDs of the sockets that own them:
// 0 for a table without an owner. If other programs commit continually, the result can lack what they added meanwhile.
func (c *Conn) TableOwners() (map[nft.TableID]uint32, error) {
	owners := make(map[nft.TableID]uint32)
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		_, err := c.dump(unix.NFT_MSG_GETTABLE, f.Number(), nil, func(body []byte) {
			var name string
			var owner uint32
			for kind, b := range nlmsg.Attributes(body) {
				switch kind {
				case unix.NFTA_TABLE_NAME:
					name = nlmsg.CString(b)
				case tableOwnerID:
					owner = uint32(nlmsg.Number(b))
				}
			}
			owners[nft.TableID{Family: f, Name: name}] = owner
		})
		if err != nil {
			return nil, fmt.Errorf("list tables of family %s: %w", f, err)
		}
	}
	return owners, nil
}

// Socket returns a second file for the connection's socket. The socket, and the tables that it owns, stay until both the
// connection and the file are closed.
func (c *Conn) Socket() (*os.File, error) {
	fd := -1
	var err error
	if cerr := c.nl.Raw.Control(func(original uintptr) {
		fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 3)
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
