package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"nfproxy/nft"
)

// dumpJSON prints a Description as json.MarshalIndent does, some Services at a time and on all processors: the text of all
// is several times as large as what it says.
func WriteJSON(w io.Writer, _ []*nft.Table, d Description) error {
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

// encoded is a part of a list in JSON.
type encoded struct {
	text []byte
	err  error
}

// servicesJSON yields parts of the list of Services, in order, each as soon as it is there.
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
