package watcher

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/nft"
	"nfproxy/render"
)

// FuzzManifests: whatever a manifest contains, and whatever it is replaced by, the Services become tables in which every
// reference is valid and no Service costs more than the bound; the changes from one manifest to the next lead to the tables
// that an empty kernel would get, but for the slots of endpoints; and then nothing is left to change.
func FuzzManifests(f *testing.F) {
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  sessionAffinity: ClientIP\n  externalTrafficPolicy: Local\n" +
		"  clusterIPs: [10.96.0.10, 'fd00:10:96::10']\n  externalIPs: [198.51.100.1]\n  loadBalancerSourceRanges: [192.0.2.0/24]\n" +
		"  ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 53, protocol: UDP}]\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}\n"
	slice := "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n" +
		"ports: [{name: a, port: 8080}, {name: b, port: 53, protocol: UDP}]\nendpoints: [{addresses: [10.1.0.1], nodeName: n}, {addresses: [10.1.0.2], conditions: {ready: false, serving: true, terminating: true}}]\n"
	f.Add([]byte(service+slice), []byte(service))
	f.Add([]byte(service+"---\n"+nodeYAML("n", "z", "192.0.2.1", "fd00::1")), []byte(service+slice+slice))
	f.Add([]byte(fullYAML), []byte("a: &a [*a]\n---\n{a: 1}\n{\n--- |\n...\n%"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"a"},"spec":{"clusterIP":"10.96.0.10","ports":[{"port":80}]}},{}]}{"a":`), []byte(service))
	n := render.Node{Name: "n", MaxServiceElements: 300, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		log := slog.New(slog.DiscardHandler)
		c := newCatalog(log)
		manifests := newManifestSet(log, c)
		r := render.NewRuleset(n)
		r.Observe(nil)
		for _, data := range [][]byte{first, second} {
			c.arrived = time.Now()
			manifests.set("a.yaml", parse(data, render.Node{Name: "n"}))
			u, _ := c.update(n)
			for _, s := range u.Services {
				if cost := render.Cost(u.Node, s, 1000); cost > 300 {
					t.Errorf("Service %s costs %d elements", s.ServiceName, cost)
				}
			}
			r.Update(u)
			for _, change := range r.Plan() {
				_ = change.String()
			}
			r.Accept()
			for _, table := range r.Tables() {
				if err := table.Validate(); err != nil {
					t.Fatal(err)
				}
			}
			all := render.Update{Node: u.Node}
			for _, s := range c.reportedServices() {
				all.Services = append(all.Services, render.Bound(u.Node, s.reported.value()))
			}
			if diff := cmp.Diff(withoutSlots(render.Tables(all)), withoutSlots(r.Tables())); diff != "" {
				t.Errorf("after changes the tables differ from those of an empty kernel:\n%s", diff)
			}
			r.Observe(r.Tables())
			if changes := r.Plan(); len(changes) > 0 {
				t.Errorf("after all changes there are more: %s", changes)
			}
			r.Accept()
		}
	})
}

// withoutSlots returns the text of tables, of the maps of endpoints only the number of elements. Chains that balance are
// left out: those that no frontend uses any more stay.
func withoutSlots(tables []*nft.Table) (texts []string) {
	for _, table := range tables {
		t := *table
		t.Sets, t.Chains = nil, nil
		for _, s := range table.Sets {
			if s.Name == "endpoints" || s.Name == "local-endpoints" {
				s = &nft.Set{Table: s.Table, Name: s.Name, Key: s.Key, Data: s.Data, Size: uint32(len(s.Elements))}
			}
			t.Sets = append(t.Sets, s)
		}
		for _, c := range table.Chains {
			if !render.IsBalancing(c.Name) {
				t.Chains = append(t.Chains, c)
			}
		}
		texts = append(texts, t.String())
	}
	return texts
}
