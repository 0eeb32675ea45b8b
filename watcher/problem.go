package watcher

import (
	"fmt"
	"slices"
	"strconv"
)

// Problem is a part of an object that cannot be used.
type Problem struct {
	// Object is the kind and the name, such as "Service default/web".
	Object string
	// Field is the path of the field, such as "spec.ports[1].port".
	Field string
	// Detail describes the problem.
	Detail string
	// Skipped is true if the object is valid but not for this proxy. Detail is the reason; no action is needed.
	Skipped bool
}

// problemList collects the problems of one object.
type problemList struct {
	to     *[]Problem
	object string
}

func newProblemList(to *[]Problem, key objectKey) problemList {
	return problemList{to: to, object: key.String()}
}

// maxProblems limits the problems that are reported of one object, which can have a hundred thousand.
const maxProblems = 100

func (l problemList) add(field, detail string) {
	switch count := len(*l.to); {
	case count > maxProblems:
		return
	case count == maxProblems:
		field, detail = "", "further problems are not reported"
	}
	*l.to = append(*l.to, Problem{Object: l.object, Field: field, Detail: detail})
}

func (l problemList) skip(field, reason string) {
	*l.to = append(*l.to, Problem{Object: l.object, Field: field, Detail: reason, Skipped: true})
}

// logProblems logs the problems that are in now and not in old, unless it has logged many of the object lately.
func (c *catalog) logProblems(old, now []Problem) {
	for _, p := range now {
		if slices.Contains(old, p) {
			continue
		}
		if p.Skipped {
			c.log.Debug("object skipped", "object", p.Object, "field", p.Field, "detail", p.Detail)
			continue
		}
		if log, ok := c.problems.About(p.Object, "problems"); ok {
			log.Warn("part of an object cannot be used", "object", p.Object, "field", p.Field, "detail", p.Detail)
		}
	}
}

// maxQuoted is how many characters of a value a problem quotes.
const maxQuoted = 64

// quoted quotes a value that a user wrote. An annotation can have 256 kB, which would be in each line of the log and in each Event.
func quoted(text string) string {
	if short := fmt.Sprintf("%.*s", maxQuoted, text); short != text {
		return strconv.Quote(short) + "..."
	}
	return strconv.Quote(text)
}
