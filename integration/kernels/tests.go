package main

import (
	"regexp"
	"slices"
	"strings"
)

// A selection names tests of one package: each is a regular expression for a whole name, with subtests after a slash.
type selection struct {
	dir   string
	tests []string
	// only: the tests run nowhere else, so that a skipped one is a failure.
	only bool
}

// selections are the tests that run on each kernel: one emulated processor runs them in a few minutes.
var selections = []selection{
	{dir: "preflight", tests: []string{"TestProbes"}},
	{dir: "nft/kernel", tests: []string{"TestEveryKind"}},
	{dir: "integration/kernel", tests: []string{
		"TestOracleText", "TestOracleListing", "TestErrorsNameTheChange", "TestStaleBatch",
		"TestSCTPSockets", "TestGuard", "TestMonitor", "TestMonitorMissed", "TestFirstLoad", "TestQuarantineAtStart",
		"TestForgetWithRules", "TestForgetInReplacedMap", "TestForgetExpiringInBulk/without_destroy=false",
		"TestAffinity/(ip|ip6)/tcp", "TestAffinityAcrossRestart", "TestAffinityExpires", "TestAffinityListing",
		"TestFlows", "TestFlowsSCTP", "TestListFilters", "TestListEndpointFilters",
		"TestGoneEndpointResets", "TestGoneEndpointKilled", "TestGoneEndpointMasqueraded", "TestGoneEndpointWithoutLoose",
		"TestReadDuringRehash", "TestReadElements", "TestRefusedPart", "TestChangeIsSmall", "TestHugeService",
		"TestUniformCounts", "TestFallbackSlot", "TestUpgradeChains", "TestStages", "TestRefusedStage", "TestMaglevClients", "TestWeightZero", "TestLimits", "TestLimitRate", "TestLimitedConnections", "TestFullClients", "TestAnswerPing", "TestRoutingLoop", "TestUnservedPortsOfNode",
		"TestMatrix/(ip|ip6)/default/tcp", "TestRandomWalk", "TestTraceClusterIP", "TestTracerBound"}},
	{dir: "agent", tests: []string{"TestRepairs", "TestComparisonRepairs", "TestComparisonFindsUnreachable"}},
	{dir: "integration/cli", tests: []string{"TestScripts/(life|repair)"}},
	{dir: "integration/ipvs", tests: []string{"TestLeftovers"}, only: true},
	{dir: "integration/clock", tests: []string{"TestClockJumps", "TestClockOutsideCertificate"}, only: true},
}

// choose returns the selections of the package in dir, reduced to the tests that a pattern matches. Empty arguments
// choose all.
func choose(dir, pattern string) []selection {
	matches := regexp.MustCompile(pattern)
	var chosen []selection
	for _, s := range selections {
		if dir != "" && s.dir != dir {
			continue
		}
		s.tests = slices.DeleteFunc(slices.Clone(s.tests), func(name string) bool { return !matches.MatchString(name) })
		if len(s.tests) > 0 {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// pattern returns the value of go test's flag -run.
func (s selection) pattern() string {
	var all []string
	for _, name := range s.tests {
		all = append(all, "^"+strings.ReplaceAll(name, "/", "$/^")+"$")
	}
	return strings.Join(all, "|")
}

// binary returns the name of the package's test binary.
func (s selection) binary() string {
	return strings.ReplaceAll(s.dir, "/", "-") + ".test"
}
