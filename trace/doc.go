// Package trace follows real packets through the kernel: first packets of connections to a Service, through all tables of
// nftables, as the kernel itself tells it. What nft.Trace says should happen can so be held against what does.
//
// target.go reads what is to be followed, packets.go puts the kernel's events together by packet and journey.go makes them
// a Journey: these are pure. follow.go marks packets, listens and hands out journeys.
package trace
