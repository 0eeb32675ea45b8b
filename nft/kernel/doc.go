// Package kernel reads nft tables from one network namespace and applies changes to them, over netlink.
//
// It is the only place that knows registers, offsets and attribute numbers of nf_tables, and the only one that needs a
// privilege: CAP_NET_ADMIN in the user namespace that owns the network namespace. It changes only the tables that its
// caller names.
//
// The files, in reading order:
//
//   - conn.go talks to the kernel, by way of package nlmsg.
//   - encode_rule.go, encode_set.go and encode_element.go turn values into attributes, with registers.go, datatypes.go
//     and attributes.go for the numbers.
//   - decode_rule.go, decode_chain.go, decode_set.go and decode_element.go turn attributes into values.
//   - read.go reads tables, read_referenced.go reads elements together with those to which they lead, and read_survey.go
//     lists the base chains of all programs.
//   - batch.go builds a transaction, and batch_errors.go finds the change that the kernel's error is about.
//   - apply.go applies changes, in the steps of apply_dynamic.go, apply_hooks.go and apply_counters.go.
//   - monitor.go reports changes by other programs, and monitor_pause.go pauses it during large batches.
//
// Expressions are encoded by github.com/google/nftables/expr. The batch is nfproxy's own: that library's batch cannot
// carry the userdata without which nft cannot list the endpoints maps, does not ask for offsets in errors, and allocates
// memory for each element. A batch here is one buffer, and an error of the kernel names the change and the element.
//
// integration/kernels runs the tests on several kernels; 6.1 is the oldest that is supported.
package kernel
