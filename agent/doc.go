// Package agent is the daemon on a node: it follows a source of Services, keeps the kernel's tables as the source asks for them,
// and answers questions about its health. Run is its only entry point.
//
// Run (run.go) opens the daemon's parts, connects them and hands them to one life cycle (lifecycle.go). The parts are:
//
//   - the daemon itself (daemon.go), one goroutine that owns all state: it waits for an Update of the source, for a change by
//     another program, or for time to pass, and then programs the kernel (program.go). A Service whose rules the kernel refuses
//     is quarantined, and tried again later (retry.go). If memory is short, changes are sent in parts (shortage.go). Single
//     elements that another program changed are restored alone (restore.go). throttle.go decides how soon an attempt may begin, and
//     budget.go keeps work that others can demand at any rate to a share of the time;
//   - observers (observer.go), which follow what the daemon does: reports for people in logs and Events (reports.go,
//     disallowed.go, oversized.go, events.go; eventquota.go decides which node writes an Event), the conntrack cleaner
//     (conntrack.go), metrics (package metrics) and health (package health);
//   - the guard (guard.go), which protects open connections while the tables are missing, and which only one daemon in a network
//     namespace has: another one waits for it (standby.go), and a daemon that executes itself again keeps it (guard_handover.go);
//   - the kernel's settings that belong to a service proxy (sysctls.go).
//
// When the daemon ends, the rules stay in the kernel.
//
// Package agent does not decide what a Service means, which is the task of package render, nor what the daemon is configured to
// do, which is that of package config.
package agent
