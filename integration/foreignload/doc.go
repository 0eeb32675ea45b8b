// Package foreignload tests nfproxy beside programs that change the same node all the time: that commit to nftables, delete
// nfproxy's objects, reload firewalls, add and remove interfaces, and fill the table of connections.
package foreignload
