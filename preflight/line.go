package preflight

import "fmt"

// Level is the severity of a Line.
type Level string

// The levels, in increasing severity.
const (
	OK      Level = "ok"
	Warning Level = "warning" // Services can suffer, or the check could not be made
	Problem Level = "problem" // Services do not work
)

// Line is the result of a check.
type Line struct {
	Level Level `json:"level"`
	// Check is the name of the check, one word that programs can rely on.
	Check string `json:"check"`
	// Finding describes what was found and its consequence.
	Finding string `json:"finding"`
	// Advice describes what to do; it is empty if there is nothing to do.
	Advice string `json:"advice,omitempty"`
}

func ok(check, format string, args ...any) Line {
	return Line{Level: OK, Check: check, Finding: fmt.Sprintf(format, args...)}
}

func warning(check, format string, args ...any) Line {
	return Line{Level: Warning, Check: check, Finding: fmt.Sprintf(format, args...)}
}

func problem(check, format string, args ...any) Line {
	return Line{Level: Problem, Check: check, Finding: fmt.Sprintf(format, args...)}
}

// advise returns the line with advice.
func (l Line) advise(advice string) Line {
	l.Advice = advice
	return l
}

// Worst returns the highest level of the lines, OK if there are none.
func Worst(lines []Line) Level {
	worst := OK
	for _, l := range lines {
		if l.Level == Problem || worst == OK {
			worst = l.Level
		}
	}
	return worst
}
