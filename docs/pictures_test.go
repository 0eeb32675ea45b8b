package docs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// picture holds the texts of a picture.
type picture struct {
	texts    map[string][]string // by class
	hooks    map[string][]string // the base chains in the group of a hook, by the id of the group
	elements map[string]string   // by element, for title and desc
}

// external matches references to resources outside the picture.
var external = regexp.MustCompile(`(?:href|src)=|url\([^#)]|@import|@font-face|<(?:image|script|foreignObject|use)\b`)

// TestPictures: the pictures are self-contained SVG with a title and a description. The packages, chains and maps that they name
// exist, and every base chain is drawn at its hook.
func TestPictures(t *testing.T) {
	table := pictureTable(t)
	for _, name := range []string{"flow", "hooks"} {
		source := readDocument(t, "../docs/pictures/"+name+".svg")
		if found := external.FindString(source); found != "" {
			t.Errorf("%s.svg contains %s: it must not refer to other resources", name, found)
		}
		p := readPicture(t, source)
		if len(p.elements["title"]) < 20 || len(p.elements["desc"]) < 100 {
			t.Errorf("%s.svg lacks a title or a description: %q", name, p.elements)
		}
		for _, chain := range p.texts["chain"] {
			if table.Chain(chain) == nil {
				t.Errorf("%s.svg names chain %s, which does not exist", name, chain)
			}
		}
		for _, m := range p.texts["map"] {
			if table.Set(m) == nil {
				t.Errorf("%s.svg names map %s, which does not exist", name, m)
			}
		}
		for _, pkg := range p.texts["package"] {
			if len(glob(t, filepath.Join("..", pkg, "*.go"))) == 0 {
				t.Errorf("%s.svg names package %s, which does not exist", name, pkg)
			}
		}
		if name == "hooks" {
			checkHooks(t, table, p.hooks)
		} else if len(p.texts["package"]) < 5 || len(p.texts["chain"]) < 3 || len(p.texts["map"]) < 2 {
			t.Errorf("%s.svg: found too few names, %v: the test does not read it correctly", name, p.texts)
		}
	}
}

// checkHooks compares the base chains drawn at the hooks with those of a table.
func checkHooks(t *testing.T, table *nft.Table, shown map[string][]string) {
	t.Helper()
	want := map[string][]string{"prerouting": nil, "input": nil, "forward": nil, "output": nil, "postrouting": nil}
	for _, c := range table.Chains {
		if c.Hook != nft.NoHook {
			want[c.Hook.String()] = append(want[c.Hook.String()], fmt.Sprintf("%s: nat, priority %d", c.Name, c.Priority))
		}
	}
	if !maps.EqualFunc(shown, want, slices.Equal) {
		t.Errorf("hooks.svg shows the base chains\n%v\nwant\n%v", shown, want)
	}
}

// pictureTable returns the IPv4 table with the Service that the pictures show.
func pictureTable(t *testing.T) *nft.Table {
	t.Helper()
	node := render.Node{Name: "a"}
	port := render.Port{Protocol: nft.TCP, Port: 80}
	for _, e := range []string{"10.244.1.2:8080", "10.244.2.2:8080", "10.244.3.2:8080"} {
		port.Endpoints = append(port.Endpoints, render.Endpoint{AddrPort: netip.MustParseAddrPort(e), Ready: true})
	}
	return render.Tables(render.Update{Node: node, Services: []render.Service{
		{ServiceName: render.ServiceName{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
			Ports: []render.Port{port}}}})[0]
}

// readPicture parses a picture and fails the test if it is not well-formed XML.
func readPicture(t *testing.T, source string) picture {
	t.Helper()
	p := picture{texts: make(map[string][]string), hooks: make(map[string][]string), elements: make(map[string]string)}
	type open struct{ element, class, id string }
	var path []open
	d := xml.NewDecoder(strings.NewReader(source))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			o := open{element: token.Name.Local}
			for _, a := range token.Attr {
				switch a.Name.Local {
				case "class":
					o.class, _, _ = strings.Cut(a.Value, " ")
				case "id":
					o.id = a.Value
				}
			}
			if o.class == "hook" {
				p.hooks[o.id] = nil
			}
			path = append(path, o)
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.CharData:
			text := strings.Join(strings.Fields(string(token)), " ")
			if text == "" {
				continue
			}
			in := path[len(path)-1]
			p.elements[in.element] += text
			p.texts[in.class] = append(p.texts[in.class], text)
			if i := slices.IndexFunc(path, func(o open) bool { return o.class == "hook" }); i >= 0 && in.class == "base" {
				p.hooks[path[i].id] = append(p.hooks[path[i].id], text)
			}
		}
	}
}
