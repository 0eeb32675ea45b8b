package cli

import (
	"fmt"
	"io"
	"time"
)

// progress shows how many nodes are done: on a terminal in a line that is overwritten, elsewhere in a line every progressInterval.
type progress struct {
	w        io.Writer
	terminal bool
	nodes    int
	shown    time.Time
}

// progressInterval is the time between two lines that are not overwritten.
const progressInterval = 5 * time.Second

func newProgress(w io.Writer, nodes int) *progress {
	p := &progress{w: w, terminal: isTerminal(w), nodes: nodes, shown: time.Now()}
	p.done(0)
	return p
}

// done shows for how many nodes there is an answer, or a reason why there is none.
func (p *progress) done(n int) {
	switch {
	case p.terminal:
		fmt.Fprintf(p.w, "\r\x1b[K%d of %s done", n, count(p.nodes, "node"))
	case n > 0 && time.Since(p.shown) >= progressInterval:
		p.shown = time.Now()
		fmt.Fprintf(p.w, "%d of %s done\n", n, count(p.nodes, "node"))
	}
}

// end removes the line from the terminal.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
