package balance

// event is something that happens at a time. Events at the same time happen in the order in which they were added.
type event struct {
	at   float64
	seq  uint64
	kind eventKind
	ref  int32
	// version is that of the connection or endpoint when the event was added. If it has changed, the event is void.
	version uint32
}

type eventKind uint8

const (
	arrive eventKind = iota
	begin            // of connection ref
	end              // of connection ref
	finish           // of the next request of endpoint ref
	tick             // of the nodes of phase ref
	change           // number ref
	sample
)

// Before reports whether the event happens before another.
func (e event) Before(f event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

// queue holds items in a binary heap.
type queue[T interface{ Before(T) bool }] []T

func (q *queue[T]) push(e T) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 && e.Before(h[(i-1)/2]) {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = e
	*q = h
}

func (q *queue[T]) pop() T {
	h := *q
	first, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	*q = h
	i := 0
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].Before(h[child]) {
			child++
		}
		if !h[child].Before(last) {
			break
		}
		h[i] = h[child]
		i = child
	}
	if len(h) > 0 {
		h[i] = last
	}
	return first
}
