package agent

import "nfproxy/render"

// findings holds what is wrong with Services, as a list for each of them. The zero value is empty and ready to use.
type findings[T any] map[render.ServiceName][]T

// replace replaces the list of a Service, by none if now is empty, and returns the one that it had.
func (f *findings[T]) replace(name render.ServiceName, now []T) (had []T) {
	had = (*f)[name]
	switch {
	case len(now) == 0:
		delete(*f, name)
	case *f == nil:
		*f = findings[T]{name: now}
	default:
		(*f)[name] = now
	}
	return had
}
