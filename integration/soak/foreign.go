//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// foreign is another program that uses nf_tables: it changes a table of its own and now and then deletes an element of
// nfproxy, always of a Service of class passing, to which no client connects.
type foreign struct {
	population
	random *rand.Rand

	commits, deletions atomic.Int64
}

func newForeign(c population, seed uint64) *foreign {
	return &foreign{population: c, random: rand.New(rand.NewPCG(seed, 3))}
}

// run commits and deletes at these intervals until ctx ends.
func (f *foreign) run(ctx context.Context, commits, deletions time.Duration) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	own, err := addForeignTable(conn)
	if err != nil {
		return err
	}
	committing, deleting := time.NewTicker(commits), time.NewTicker(deletions)
	defer committing.Stop()
	defer deleting.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-committing.C:
			err = f.commit(conn, own)
		case <-deleting.C:
			err = f.deleteElement(conn)
		}
		if err != nil {
			return err
		}
	}
}

// addForeignTable adds a table with a set.
func addForeignTable(conn *nftables.Conn) (*nftables.Set, error) {
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "foreign"})
	set := &nftables.Set{Table: table, Name: "marks", KeyType: nftables.TypeMark}
	if err := conn.AddSet(set, nil); err != nil {
		return nil, err
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("add the table of another program: %w", err)
	}
	return set, nil
}

// commit adds and deletes elements of the foreign set in turn.
func (f *foreign) commit(conn *nftables.Conn, own *nftables.Set) error {
	n := f.commits.Add(1) - 1
	element := []nftables.SetElement{{Key: binary.NativeEndian.AppendUint32(nil, uint32(n/2))}}
	change := conn.SetAddElements
	if n%2 == 1 {
		change = conn.SetDeleteElements
	}
	if err := change(own, element); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("commit of another program: %w", err)
	}
	return nil
}

// deleteElement deletes the element of a random frontend from the map services. If there is none, it tries another Service.
func (f *foreign) deleteElement(conn *nftables.Conn) error {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nfproxy"}
	services := &nftables.Set{Table: table, Name: "services", IsMap: true}
	for range 100 {
		s := service(f.first(passing) + f.random.IntN(f.count(passing)))
		if err := conn.SetDeleteElements(services, []nftables.SetElement{{Key: serviceKey(s)}}); err != nil {
			return err
		}
		switch err := conn.Flush(); {
		case err == nil:
			f.deletions.Add(1)
			return nil
		case !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("delete an element of nfproxy: %w", err)
		}
	}
	return errors.New("delete an element of nfproxy: no Service has one")
}

// serviceKey returns the key of a Service in the map services: address, protocol and port, each padded to four bytes.
func serviceKey(s service) []byte {
	key := s.addr(0).AsSlice()
	protocol := byte(unix.IPPROTO_TCP)
	if s.udp() {
		protocol = unix.IPPROTO_UDP
	}
	return append(key, protocol, 0, 0, 0, 0, servicePort, 0, 0)
}
