package differential

// expectation is a deliberate difference between the proxies.
type expectation struct {
	subject   string
	kubeProxy string
	nfproxy   string                // and the reason
	explains  func(difference) bool // nil if no probe can see it
}

// expected is the list of deliberate differences.
var expected = []expectation{}

// unexpected returns the differences that no row of the list explains.
func unexpected(all []difference, count *tally) []difference {
	var rest []difference
next:
	for _, d := range all {
		for _, e := range expected {
			if e.explains != nil && e.explains(d) {
				count.expected++
				continue next
			}
		}
		rest = append(rest, d)
	}
	return rest
}
