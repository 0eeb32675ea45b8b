package datapath

import (
	"nfproxy/integration/compare/record"
)

// trial is one case: connections to a group of Services from a place.
type trial struct {
	group
	from string
}

// trials returns the cases at a number of Services. The base case is a TCP connection of a Pod to a cluster IP with ten endpoints; all
// others differ from it in one property, and are measured at one number of Services.
func trials(detailed bool) []trial {
	var all []trial
	for _, g := range groups(detailed) {
		switch {
		case g.nodePort:
			all = append(all, trial{g, fromOutside})
		case g.name == plain && detailed:
			all = append(all, trial{g, fromPod}, trial{g, fromNode})
		case g.name != stream:
			all = append(all, trial{g, fromPod})
		}
	}
	return all
}

// measurement returns a measurement of the case without a result.
func (c trial) measurement(experiment string, proxy record.Proxy, services int, unit string) record.Measurement {
	parameters := map[string]string{"from": c.from, "protocol": "TCP", "affinity": "none"}
	if c.udp {
		parameters["protocol"] = "UDP"
	}
	if c.affinity {
		parameters["affinity"] = "ClientIP"
	}
	return record.Measurement{Experiment: experiment, Proxy: proxy, Services: services, Endpoints: c.endpoints, Parameters: parameters, Unit: unit}
}

// Experiments of the record. Each sample is a round: its connections per second, a quantile of their latencies, and the processor time
// of the client for each. The latter depends least on other programs of the machine.
const (
	rateExperiment   = "short connections"
	medianExperiment = "connect p50"
	tailExperiment   = "connect p99"
	cpuExperiment    = "connection CPU"
	streamExperiment = "established throughput"
	packetExperiment = "established packets"
)
