package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
)

// WriteJSON prints a Description as json.MarshalIndent does. It encodes some Services at a time, on all processors: the
// whole text would be several times as large as the Description.
func WriteJSON(w io.Writer, d Description) error {
	tables, err := json.MarshalIndent(d.Tables, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "{\n  \"tables\": %s,\n  \"services\": [", tables)
	separator, end := "\n    ", "]\n}\n"
	for part := range servicesJSON(d.Services) {
		p := <-part
		err = errors.Join(err, p.err)
		fmt.Fprintf(w, "%s%s", separator, p.text)
		separator, end = jsonSeparator, "\n  ]\n}\n"
	}
	_, werr := io.WriteString(w, end)
	return errors.Join(err, werr)
}

const jsonSeparator = ",\n    "

// encoded is a part of the list of Services in JSON.
type encoded struct {
	text []byte
	err  error
}

// servicesJSON encodes the list of Services in parts and returns them in order. Each part arrives when it is encoded.
func servicesJSON(services []ServicePort) <-chan chan encoded {
	const part = 256
	parts := make(chan chan encoded, runtime.GOMAXPROCS(0))
	go func() {
		defer close(parts)
		for chunk := range slices.Chunk(services, part) {
			done := make(chan encoded, 1)
			parts <- done
			go func() {
				text, err := chunkJSON(chunk)
				done <- encoded{text, err}
			}()
		}
	}()
	return parts
}

func chunkJSON(services []ServicePort) ([]byte, error) {
	texts := make([][]byte, len(services))
	for i, s := range services {
		var err error
		if texts[i], err = json.MarshalIndent(s, "    ", "  "); err != nil {
			return nil, err
		}
	}
	return bytes.Join(texts, []byte(jsonSeparator)), nil
}
