// Package report reads nfproxy's tables back and puts them into words: which Services they serve, what becomes of a
// connection and why, and how the tables differ from the desired state. It is pure: the tables and the desired state are
// arguments. Package cli prints what it returns; agent/metrics exports the counters.
//
// Read describe.go first: a Description is the tables in terms of Services, and `nfproxy dump` prints it (dump_table.go,
// dump_json.go). target.go parses the Service or address that a person asks about. explain.go simulates the packets of one
// connection, reasons.go says why they end as they do, expect.go compares that with the desired state, and explain_text.go
// prints it, or explain_dot.go as a graph. problems.go compares whole tables with the desired state. tally.go sums up counters.
package report
