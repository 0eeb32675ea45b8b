// Package agent is the daemon at work on a node: it follows a source of Services, keeps the kernel's tables what they should
// be, and answers those who ask how it does. Run is all of it, Follow the loop alone.
//
// The loop (proxy.go) is one goroutine: it waits for an update of the source, for what others do to the tables, or for
// time to pass, and then brings the kernel to where it should be (program.go). A change that the kernel refuses leaves the
// rules as they were, and its Service in quarantine (trials.go); how soon the next attempt follows is pace.go's. Beside
// the loop, and never waited for by it, stale flows are swept (sweeper.go), load balancers and monitoring are answered
// (balancerhealth.go, servers.go), and Events are sent (events.go). When the daemon ends the rules stay.
//
// Package agent decides neither what a Service means, which is render's, nor what to be told, which is config's.
package agent
