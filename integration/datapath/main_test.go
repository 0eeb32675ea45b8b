package datapath

import (
	"flag"
	"testing"
	"time"

	"nfproxy/integration/cluster"
)

// The size of a run. The defaults make a run of some seconds that tests the comparison; `make bench-datapath` makes a real one.
var (
	sizes       = flag.String("datapath.sizes", "30", "numbers of Services, separated by spaces, from the smallest to the largest")
	proxies     = flag.String("datapath.proxies", "none,nfproxy,kube-proxy nftables,kube-proxy iptables", "which proxies are compared")
	backend     = flag.String("datapath.iptables", "", "the `BACKEND` of kube-proxy's iptables: nft or legacy; empty for the machine's default")
	detail      = flag.Int("datapath.detail", 30, "the number of Services with which the other properties are varied")
	many        = flag.Int("datapath.many", 50, "the number of endpoints of Services with many of them")
	rounds      = flag.Int("datapath.rounds", 1, "rounds of each case, through each proxy")
	connections = flag.Int("datapath.connections", 60, "connections of a round")
	streaming   = flag.Duration("datapath.stream", time.Second, "how long each of the rounds of established connections takes; 0 for none of them")
	patience    = flag.Duration("datapath.patience", defaultPatience, "how long a proxy may take until it has programmed all Services")
	firstPacket = flag.String("datapath.firstpacket", "", "add the results of BenchmarkFirstPacket and BenchmarkDraws in `FILE`")
	recordFile  = flag.String("datapath.out", "", "write the record to `FILE`")
	command     = flag.String("datapath.command", "go test ./integration/datapath", "the `COMMAND` that repeats the run, for the record")
)

func TestMain(m *testing.M) {
	cluster.Main(m, map[string]func(){clientProgram: clientMain, serverProgram: serverMain})
}
