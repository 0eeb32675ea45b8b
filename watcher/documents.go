package watcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
)

// documents splits a file into YAML documents. The rest of a separator line belongs to the document after it.
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

// separator reports whether a line begins with the separator "---" or "...", and returns the rest of the line.
func separator(line []byte) (rest []byte, ok bool) {
	rest, ok = bytes.CutPrefix(line, []byte("---"))
	if !ok {
		rest, ok = bytes.CutPrefix(line, []byte("..."))
	}
	return rest, ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// blank reports whether a document contains only comments and directives, as the text before the first separator does.
func blank(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// jsonValues reads a document as a sequence of JSON objects, the output format of jq, up to the first error. It returns
// nothing if the text does not begin with a JSON object.
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

// trailingText returns an error if text follows the first object of a YAML document. The YAML library ignores such text
// silently. Text can follow only a closing brace, so other documents need not be read twice.
func trailingText(text []byte) error {
	if !braced(text) {
		return nil
	}
	d := yamlv2.NewDecoder(bytes.NewReader(text))
	var ignored any
	if err := d.Decode(&ignored); err != nil {
		return err
	}
	if err := d.Decode(&ignored); !errors.Is(err, io.EOF) {
		return errors.New("text follows the end of the object without a --- separator")
	}
	return nil
}

// braced reports whether a document begins with a brace, or with an anchor or a tag, which a brace may follow.
func braced(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return strings.ContainsRune("{&!", rune(line[0]))
		}
	}
	return false
}
