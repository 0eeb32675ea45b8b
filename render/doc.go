// Package render turns Services into the nftables tables that implement them.
//
// Skeleton returns the part of the tables that depends on the Node alone. RulesOf returns the rules of one Service: its elements
// in the sets that all Services share, and its dedicated objects if it has session affinity. Tables returns complete tables.
//
// Ruleset combines the skeleton with the rules of all Services and computes what has to change in the kernel, at a cost that
// depends on the change and not on the number of Services. It has three stages: desired, planned and applied. Update changes the
// desired stage, Plan returns the changes from the applied stage to the desired one, Accept makes the plan the applied stage,
// Observe takes tables that were read from the kernel, and Forget notes that the state of the kernel is unknown. Within a Ruleset:
//
//   - claims decide which of several Services owns a frontend;
//   - slots number the endpoints of a frontend, and endpoints keep their slots when others come and go;
//   - quarantine keeps the applied rules of a Service whose desired rules the kernel refuses.
//
// Beside the tables, FlowIndex decides which UDP and SCTP conntrack entries are stale, UntranslatedFlows finds TCP connections
// that began without rules, and HealthCheckOf returns what a Service's health check node port answers.
//
// What the tables contain is written and read back in one place: sets in schema.go, names of chains and maps and labels of
// elements in names.go, frontends and slots in keys.go.
//
// The package is pure: no I/O, no clock, no log. It imports the standard library and the packages nft and conntrack. Choices
// are returned with their reasons.
package render
