package watcher

// Problem is something in an object that cannot be used as it stands, and what it is.
type Problem struct {
	// Object is the kind and the name, such as "Service default/web".
	Object string
	// Field is the path of the field at fault, such as "spec.ports[1].port".
	Field string
	// Detail says what is wrong with it.
	Detail string
	// Skipped says that the object is well but not for this proxy: Detail is the reason, nobody has to act.
	Skipped bool
}

// notes collects the problems of one object.
type notes struct {
	to     *[]Problem
	object string
}

func noter(to *[]Problem, key objectKey) notes { return notes{to: to, object: key.String()} }

// maxProblems is how many problems of one object are told: it can have a hundred thousand.
const maxProblems = 100

func (n notes) add(field, detail string) {
	switch had := len(*n.to); {
	case had > maxProblems:
		return
	case had == maxProblems:
		field, detail = "", "there are more problems; they are not told"
	}
	*n.to = append(*n.to, Problem{Object: n.object, Field: field, Detail: detail})
}

func (n notes) skip(field, reason string) {
	*n.to = append(*n.to, Problem{Object: n.object, Field: field, Detail: reason, Skipped: true})
}
