//go:build linux

package conformance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"text/template"

	"nfproxy/sandbox"
)

const containerdSocket = "/run/containerd/containerd.sock"

// programs is the directory of the programs that the Makefile builds or downloads.
const programs = ".bin"

// programPath returns the path of one of these programs. Tests run in the module's root.
func programPath(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(programs, name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%s is missing: run `make conformance-tools` (%v)", name, err)
	}
	return path
}

// nodePrograms are the programs of Debian's packages that a node runs.
var nodePrograms = []string{
	"usr/bin/containerd", "usr/bin/ctr", "usr/bin/containerd-shim-runc-v2", "usr/sbin/runc",
	"usr/lib/cni/ptp", "usr/lib/cni/portmap", "usr/lib/cni/host-local", "usr/lib/cni/loopback",
}

// containerdEnv names the directory of Debian's packages for a first process, which works in another directory.
const containerdEnv = "NFPROXY_CONFORMANCE_CONTAINERD"

// containerdProgram returns the path of a file of Debian's packages.
func containerdProgram(name string) string { return filepath.Join(os.Getenv(containerdEnv), name) }

// The configuration of a node's programs. {{.Dir}} is the directory of Debian's packages.
var (
	// restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower oom_score_adj, and fails.
	containerdConfig = template.Must(template.New("containerd").Parse(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{{.Socket}}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Pause}}"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{{.Packages}}/usr/sbin/runc"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{{.Packages}}/usr/lib/cni"
    conf_dir = "{{.Dir}}/cni"
`))

	// Every Pod has a link of its own: all packets are routed, and pass the node's rules, which a bridge does not guarantee.
	cniConfig = template.Must(template.New("cni").Parse(`{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
   "ranges": [[{"subnet": "{{.PodCIDR4}}"}]{{if .IPv6}}, [{"subnet": "{{.PodCIDR6}}"}]{{end}}],
   "routes": [{"dst": "0.0.0.0/0"}{{if .IPv6}}, {"dst": "::/0"}{{end}}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`))

	// kubelet has the file system of the machine: it must not remove images because the machine's disk is fairly full.
	kubeletConfig = template.Must(template.New("kubelet").Parse(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "{{.Authority}}"}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://{{.Socket}}
cgroupDriver: cgroupfs
cgroupRoot: /
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: [none]
clusterDNS: ["{{.DNS}}"]
clusterDomain: cluster.local
resolvConf: {{.Dir}}/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
serializeImagePulls: false
kubeAPIQPS: 100
kubeAPIBurst: 200
`))
)

// nodeFiles is what the files of a node contain.
type nodeFiles struct {
	Dir, Packages, Socket, Pause, Authority, DNS string
	PodCIDR4, PodCIDR6                           string
	IPv6                                         bool
}

// startNode starts the containerd and the kubelet of a node. The first node is number 1.
func (c *testCluster) startNode(i int, ns *sandbox.Namespace) *host {
	c.t.Helper()
	name := nodeName(i)
	dir := filepath.Join(c.dir, name)
	packages := programPath(c.t, "containerd")
	for _, name := range nodePrograms {
		programPath(c.t, filepath.Join("containerd", name))
	}
	c.writeNodeFiles(nodeFiles{
		Dir: dir, Packages: packages, Socket: containerdSocket, Pause: pauseImage, Authority: c.authority, DNS: dnsAddr,
		PodCIDR4: podCIDR4(i), PodCIDR6: podCIDR6(i), IPv6: !c.ipv4,
	})
	addrs := nodeAddr(i)
	nodeIP := addrs.v4.String()
	if !c.ipv4 {
		nodeIP += "," + addrs.v6.String()
	}
	env := []string{"HOME=/root", "PATH=" + packages + "/usr/bin:" + packages + "/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	c.t.Setenv(containerdEnv, packages)
	return startHost(c.t, ns, hostConfig{
		Name:    name,
		Dir:     dir,
		Imports: c.archives,
		Daemons: []program{
			{Name: "containerd", Env: env, Socket: containerdSocket,
				Args: []string{packages + "/usr/bin/containerd", "--config", dir + "/containerd.toml", "--log-level", "warn"}},
			{Name: "kubelet", Env: env, Args: []string{programPath(c.t, "kubelet"),
				"--config=" + dir + "/kubelet.yaml",
				"--kubeconfig=" + c.nodeKubeconfig("system:node:"+name, "system:nodes"),
				"--hostname-override=" + name,
				"--node-ip=" + nodeIP,
				"--root-dir=/var/lib/kubelet",
				"--cert-dir=/var/lib/kubelet/pki",
			}},
		},
	})
}

// nodeName returns the name of a node.
func nodeName(i int) string { return fmt.Sprintf("node%d", i) }

// writeNodeFiles writes the configuration of a node's programs.
func (c *testCluster) writeNodeFiles(f nodeFiles) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Join(f.Dir, "cni"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	for name, content := range map[string]*template.Template{
		"containerd.toml": containerdConfig, "kubelet.yaml": kubeletConfig, "cni/10-pods.conflist": cniConfig,
	} {
		var text bytes.Buffer
		if err := content.Execute(&text, f); err != nil {
			c.t.Fatal(err)
		}
		writeFile(c.t, filepath.Join(f.Dir, name), text.Bytes())
	}
	writeFile(c.t, filepath.Join(f.Dir, "resolv.conf"), []byte("# There is no name server outside the cluster.\n"))
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
