package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"nfproxy/render"
)

func envVar(flag string) string {
	return "NFPROXY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func logger(c *cli.Context) *slog.Logger {
	level := slog.LevelInfo
	if c.Int("v") >= 4 {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
}

func nodeFromFlags(c *cli.Context) (n render.Node, err error) {
	if c.String("manifests") == "" {
		return n, errors.New("run needs --manifests DIR, a directory of Services and EndpointSlices")
	}
	n.MasqueradeAll = c.Bool("masquerade-all")
	if n.Name, err = nodeName(c.String("hostname-override")); err != nil {
		return n, err
	}
	if n.ClusterCIDRs, err = parsePrefixes(c.String("cluster-cidr")); err != nil {
		return n, fmt.Errorf("--cluster-cidr: %w", err)
	}
	if len(n.ClusterCIDRs) == 2 && n.ClusterCIDRs[0].Addr().Is4() == n.ClusterCIDRs[1].Addr().Is4() || len(n.ClusterCIDRs) > 2 {
		return n, fmt.Errorf("--cluster-cidr: %q has more than one CIDR of a family", c.String("cluster-cidr"))
	}
	if err := detectLocal(c, &n); err != nil {
		return n, err
	}
	if n.ServiceCIDRs, err = parsePrefixes(c.String("service-cidr")); err != nil {
		return n, fmt.Errorf("--service-cidr: %w", err)
	}
	return n, nil
}

// detectLocal sets how the node tells pods, by the mode that kube-proxy calls the same.
func detectLocal(c *cli.Context, n *render.Node) error {
	bridge, prefix := c.String("pod-bridge-interface"), c.String("pod-interface-name-prefix")
	switch mode := c.String("detect-local-mode"); mode {
	case "", "ClusterCIDR":
	case "NodeCIDR":
		n.NodeCIDR = true
	case "BridgeInterface":
		n.PodInterface = bridge
		return checkInterface("pod-bridge-interface", bridge)
	case "InterfaceNamePrefix":
		n.PodInterface = prefix + "*"
		return checkInterface("pod-interface-name-prefix", prefix)
	default:
		return fmt.Errorf("--detect-local-mode: %q is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix", mode)
	}
	if bridge != "" || prefix != "" {
		return errors.New("--pod-bridge-interface and --pod-interface-name-prefix go with --detect-local-mode BridgeInterface and InterfaceNamePrefix")
	}
	return nil
}

// maxInterfaceName is the longest name an interface can have (IFNAMSIZ without its NUL).
const maxInterfaceName = 15

func checkInterface(flag, name string) error {
	if name == "" || len(name) > maxInterfaceName || strings.ContainsAny(name, "/*\" \t") {
		return fmt.Errorf("--%s: %q is no name of an interface", flag, name)
	}
	return nil
}

// nodeName is the name a Node registers with: trimmed and in lower case, as kubelet and kube-proxy do.
func nodeName(override string) (string, error) {
	name := strings.TrimSpace(override)
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("--hostname-override is not given and the host name cannot be had: %w", err)
		}
		name = strings.TrimSpace(host)
	}
	return strings.ToLower(name), nil
}

// parsePrefixes reads CIDRs separated by commas. Host bits are cleared.
func parsePrefixes(list string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for text := range strings.SplitSeq(list, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no CIDR such as 10.0.0.0/16 or fd00::/64", text)
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is an IPv4 address written as IPv6", text)
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, nil
}

// parseNodePortAddresses reads where node ports are served: CIDRs, or primary, which is none.
func parseNodePortAddresses(list string) ([]netip.Prefix, error) {
	const primary = "primary"
	if strings.TrimSpace(list) == primary {
		return nil, nil
	}
	for text := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(text) == primary {
			return nil, fmt.Errorf("%q has primary and something else: it stands alone", list)
		}
	}
	return parsePrefixes(list)
}
