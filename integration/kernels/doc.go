// Command kernels runs tests of nfproxy on the kernels that nodes run: one virtual machine for each kernel, in which the
// tests are the only programs.
//
//	make test-kernels                          # the kernels in KERNELS, with the tests in tests.go
//	make test-kernels KERNELS=bookworm RUN=TestMatrix
//
// How it works:
//
//   - debian (a shell script) downloads Debian's packages of a kernel and of nft and extracts them below .bin. Nothing is
//     installed.
//   - initramfs (a shell script) makes a root file system in memory: busybox, nft, the kernel's modules for networks, the test binaries,
//     and the tree, in which the tests find their testdata. The kernel loads modules by modprobe, as on a node.
//   - init is the first and only service in the machine. It runs the tests, with their output on the second serial
//     port, and switches the machine off.
//   - machine.go starts qemu, which emulates a processor: the tests need no hardware virtualization. The machine's clock
//     counts instructions, so that a time-out in a test means the same on a slow or busy host as on a fast one.
//   - results.go reads the output, and main.go prints one line for each kernel, followed by the tests that were skipped,
//     with the reason, and by those that failed. It fails if a test fails, or if a test of the list did not run.
//
// The complete outputs and the kernels' messages are in dist/kernels.
package main
