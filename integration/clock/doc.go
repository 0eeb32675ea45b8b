// Package clock tests nfproxy while the clock of the machine is set: forward by a day and an hour, and back by a day. It holds tests
// only.
//
// Linux has no namespaces for CLOCK_REALTIME, so these tests set the clock only in the virtual machines of integration/kernels, which
// a parameter of the kernel tells apart. Everywhere else they are skipped; there, a skip counts as a failure.
package clock
