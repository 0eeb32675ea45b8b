// Package killpoints kills nfproxy at every single message that it sends to the kernel, and tests that the next start heals what is
// left and that no client notices. It holds tests only.
package killpoints
