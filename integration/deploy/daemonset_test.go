package deploy

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
)

// daemonSetContainer returns the container that a kubelet on the cluster's node creates for the manifest's DaemonSet, with
// these files in the volume of its ConfigMap. It fails the test if the manifest asks for something it does not implement.
func (c *deployment) daemonSetContainer(files map[string]string) *container {
	c.T.Helper()
	var set appsv1.DaemonSet
	cluster.ReadObject(c.T, manifest, "DaemonSet", &set)
	pod, spec := set.Spec.Template.Spec, set.Spec.Template.Spec.Containers[0]
	if !pod.HostNetwork || len(pod.Containers) != 1 || len(pod.InitContainers) != 0 || len(spec.Command) != 0 || len(pod.Volumes) != 1 {
		c.T.Fatalf("%s: the test does not implement this Pod: %+v", manifest, pod)
	}
	made := newContainer(c.T, "/nfproxy") // the image, and its entry point
	security := spec.SecurityContext
	made.UID = int(*security.RunAsUser)
	made.Seccomp = pod.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault
	made.ReadOnlyRoot, made.NoNewPrivs = *security.ReadOnlyRootFilesystem, !*security.AllowPrivilegeEscalation
	if got := fmt.Sprint(security.Capabilities.Drop, security.Capabilities.Add, security.Privileged); got != "[ALL] [NET_ADMIN] <nil>" {
		c.T.Fatalf("%s: capabilities %s", manifest, got)
	}
	made.Capabilities = []int{unix.CAP_NET_ADMIN}

	values := map[string]string{"spec.nodeName": cluster.NodeName}
	made.Env = []string{"PATH=/usr/bin", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"}
	made.Args = []string{"/nfproxy"}
	var expand []string
	for _, e := range spec.Env {
		value := values[e.ValueFrom.FieldRef.FieldPath]
		made.Env = append(made.Env, e.Name+"="+value)
		expand = append(expand, "$("+e.Name+")", value)
	}
	for _, arg := range spec.Args {
		made.Args = append(made.Args, strings.NewReplacer(expand...).Replace(arg))
	}
	account := c.ServiceAccountConfig(set.Namespace, pod.ServiceAccountName)
	made.mount(c.T, "/var/run/secrets/kubernetes.io/serviceaccount", cluster.AccountFiles(set.Namespace, account))
	if pod.Volumes[0].Name != spec.VolumeMounts[0].Name {
		c.T.Fatalf("%s: no container mounts volume %s", manifest, pod.Volumes[0].Name)
	}
	made.mount(c.T, spec.VolumeMounts[0].MountPath, files)
	return made
}

// editedConfigMap returns the files of the manifest's ConfigMap with the API server's address and the pod CIDRs filled in.
func (c *deployment) editedConfigMap() map[string]string {
	c.T.Helper()
	var set appsv1.DaemonSet
	var config corev1.ConfigMap
	cluster.ReadObject(c.T, manifest, "DaemonSet", &set)
	cluster.ReadObject(c.T, manifest, "ConfigMap", &config)
	if mounted := set.Spec.Template.Spec.Volumes[0].ConfigMap.Name; mounted != config.Name {
		c.T.Fatalf("%s: the DaemonSet mounts ConfigMap %s, not %s", manifest, mounted, config.Name)
	}
	files := config.Data
	server := net.JoinHostPort(cluster.NodeAddrs[0].String(), fmt.Sprint(controlplane.Port))
	for _, edit := range [][3]string{
		{"config.conf", `clusterCIDR: ""`, `clusterCIDR: "10.244.0.0/16,fd00:10:244::/48"`},
		{"kubeconfig.conf", "https://kube-apiserver:6443", "https://" + server},
	} {
		before := files[edit[0]]
		files[edit[0]] = strings.Replace(before, edit[1], edit[2], 1)
		if files[edit[0]] == before {
			c.T.Fatalf("%s: %s does not contain %q", manifest, edit[0], edit[1])
		}
	}
	return files
}

// TestDaemonSet: nfproxy works in the container of the DaemonSet, with its privileges, and logs no warning.
func TestDaemonSet(t *testing.T) {
	c := newDeployment(t)
	b := c.AddBackends("web", 2)
	made := c.daemonSetContainer(c.editedConfigMap())
	made.OOMScoreAdj = -997 // as a kubelet sets it for system-node-critical
	agent := made.start(t)
	c.checkWorks(b)
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", agent.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(agent.Log.String()) {
		beyond := string(score) != "-997\n" && strings.Contains(line, "oom_score_adj") // the tests may lack the privilege, too
		if strings.Contains(line, "level=") && !strings.Contains(line, "level=INFO") && !beyond {
			t.Errorf("nfproxy logs a warning: %s", line)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if status, body := cluster.Fetch(10256, path); status != 200 {
			t.Errorf("%s: status %d, want 200: %s", path, status, body)
		}
	}
	agent.Stop()
}

// TestDaemonSetCommands: the commands that kubectl nfproxy runs work in the container of the DaemonSet, with its privileges and the
// daemon's settings. verify is killed before the daemon if memory runs out.
func TestDaemonSetCommands(t *testing.T) {
	c := newDeployment(t)
	b := c.AddBackends("web", 2)
	made := c.daemonSetContainer(c.editedConfigMap())
	agent := made.start(t)
	c.checkWorks(b)
	defer agent.Stop()
	run := func(args ...string) (string, error) {
		command := *made
		command.Args = append([]string{"/nfproxy"}, args...)
		p := command.start(t)
		err := <-p.Done
		p.Done <- err
		return p.Log.String(), err
	}
	for _, command := range []struct{ args, want string }{
		{"status", "node            node-a\nversion         unknown\nready           ok\nhealthy         yes\neligible        yes\n"},
		{"verify", ", differing: 0\n"},
		{"check -o json", `"result": `},
		{"dump -o json web", `"name": "web"`},
		{"explain -o json --to web:http", `"outcome": "sent"`},
		{"top -o json --interval 100ms", `"service": "default/web:http"`},
	} {
		if out, err := run(strings.Fields(command.args)...); err != nil || !strings.Contains(out, command.want) {
			t.Errorf("%s: %v, want %q in\n%s", command.args, err, command.want, out)
		}
	}
}
