// Command leastloaded simulates whether the conntrack entries of a node can choose among endpoints, for docs/design/0017-least-loaded.md:
// leastloaded DIR. It writes the page and the plots of DIR/leastloaded, and the generated lines of DIR/0017-least-loaded.md. It has no
// input but its own experiments (experiments.go), so that it always writes the same bytes.
package main
