package watcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
)

// documents splits a file where YAML ends a document. The rest of a line that begins one belongs to it.
func documents(data []byte) [][]byte {
	var docs [][]byte
	var doc []byte
	for line := range bytes.Lines(data) {
		rest, ends := separator(line)
		if !ends {
			doc = append(doc, line...)
			continue
		}
		if len(docs) > 0 || !blank(doc) {
			docs = append(docs, doc)
		}
		doc = bytes.Clone(rest)
	}
	return append(docs, doc)
}

// separator tells whether a line is "---" or "...", and returns what follows on it.
func separator(line []byte) (rest []byte, ok bool) {
	rest, ok = bytes.CutPrefix(line, []byte("---"))
	if !ok {
		rest, ok = bytes.CutPrefix(line, []byte("..."))
	}
	return rest, ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// blank tells whether there is nothing but comments and directives, as before a file's first separator.
func blank(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// jsonValues reads a document as JSON objects one after the other, as jq prints them, up to the first error. There is
// none where the text does not begin with a JSON object.
func jsonValues(text []byte) (values []json.RawMessage, err error) {
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '{' {
		return nil, nil
	}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var value json.RawMessage
		if err := d.Decode(&value); errors.Is(err, io.EOF) {
			return values, nil
		} else if err != nil {
			return values, err
		}
		values = append(values, value)
	}
}

// noMore returns an error if something follows the first object of a YAML document. The YAML library stops there without
// a word. Only behind a closing brace anything may follow, so the rest need not be read twice.
func noMore(text []byte) error {
	if !braced(text) {
		return nil
	}
	d := yamlv2.NewDecoder(bytes.NewReader(text))
	var ignored any
	if err := d.Decode(&ignored); err != nil {
		return err
	}
	if err := d.Decode(&ignored); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end of the object without a --- between")
	}
	return nil
}

// braced tells whether a document begins with a brace, or with an anchor or a tag that one may follow.
func braced(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return strings.ContainsRune("{&!", rune(line[0]))
		}
	}
	return false
}
