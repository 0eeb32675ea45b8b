// Package clock tests nfproxy while the clock of the machine is set: forward by a day and an hour, and back by a day. It holds tests
// only.
//
// Linux has no namespaces for CLOCK_REALTIME, so these tests run only in the virtual machines of integration/kernels, which they
// recognise by a parameter of the kernel. Elsewhere they are skipped. In these machines a skip counts as a failure.
package clock
