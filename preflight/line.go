package preflight

import "fmt"

// Level is how good or bad a Line is.
type Level string

// The levels, from good to bad. A problem keeps Services from working; a warning is to be looked at.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Line is one thing that was looked at.
type Line struct {
	Level Level `json:"level"`
	// Check is what was looked at: a word, for programs too.
	Check string `json:"check"`
	// Finding is what there is and what it means.
	Finding string `json:"finding"`
	// Advice is what to do, empty for nothing.
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

// advise says what to do.
func (l Line) advise(advice string) Line {
	l.Advice = advice
	return l
}

// Worst is the level of the worst line.
func Worst(lines []Line) Level {
	worst := OK
	for _, l := range lines {
		if l.Level == Problem || worst == OK {
			worst = l.Level
		}
	}
	return worst
}
