// Package fleet runs a command of nfproxy on every node of a cluster and collects the answers, for `kubectl nfproxy`. It finds the
// DaemonSet by its label, and uses the API server's exec into its Pods: nodes need neither another port nor another right.
//
// Read find.go first: Find returns a Target for each node, or the reason why there is none (pod.go). run.go runs the command on them, some at a
// time, and exec.go on one. kubeconfig.go and client.go connect to the API server, and reason.go puts errors into words. These do the
// I/O. The rest is pure: group.go finds nodes with equal answers, and explained.go compares and adds up answers
// without what legitimately differs between nodes.
package fleet
