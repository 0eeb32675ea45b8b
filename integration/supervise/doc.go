// Package supervise executes programs whose system calls wait until a test has decided about each of them: whether the call
// proceeds, or fails with an error.
//
// It uses the notifications of seccomp (seccomp_unotify(2), Linux 5.19 for SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV). A test registers
// Launch as a program of its binary, named Launcher. Command returns a command that executes a program by it, and a Handover, from
// which the test accepts the Listener at which the calls arrive.
package supervise
