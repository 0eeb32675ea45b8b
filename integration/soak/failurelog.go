//go:build linux

package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// failureLog writes one line for each failure of a client.
type failureLog struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *failureLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "%s %s\n", time.Now().UTC().Format(time.RFC3339Nano), fmt.Sprintf(format, args...))
}
