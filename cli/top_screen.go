package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gdamore/tcell/v2"
)

// topScreen shows rows on a terminal.
type topScreen struct {
	tcell.Screen
	byEndpoint bool
	read       func() ([]topRow, error)
	rows       []topRow
	err        error // of the last reading
}

// show draws the rows and reads them again at every tick, until the user quits, ctx is done, or the terminal closes.
func (s *topScreen) show(ctx context.Context, tick <-chan time.Time) error {
	events, over := make(chan tcell.Event), make(chan struct{})
	defer close(over)
	go s.ChannelEvents(events, over)
	for {
		s.draw()
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
			s.rows, s.err = s.read()
		case e := <-events:
			switch e := e.(type) {
			case nil: // the screen has ended
				return nil
			case *tcell.EventError:
				return fmt.Errorf("terminal: %w", e)
			case *tcell.EventResize:
				s.Sync()
			case *tcell.EventKey:
				if e.Key() == tcell.KeyCtrlC || e.Key() == tcell.KeyEscape || e.Key() == tcell.KeyRune && e.Rune() == 'q' {
					return nil
				}
			}
		}
	}
}

// draw fills the screen: a title with the sums, the table, and the number of rows that do not fit.
func (s *topScreen) draw() {
	s.Clear()
	_, height := s.Size()
	s.PutStrStyled(0, 0, s.title(), tcell.StyleDefault.Bold(true))
	room := max(height-4, 0) // without the title, an empty line, the column headings and the last line
	var table strings.Builder
	topTable(&table, s.rows[:min(room, len(s.rows))], s.byEndpoint)
	for i, line := range strings.Split(table.String(), "\n") {
		style := tcell.StyleDefault
		if i == 0 {
			style = style.Reverse(true)
		}
		s.PutStrStyled(0, 2+i, line, style)
	}
	if rest := len(s.rows) - room; rest > 0 {
		s.PutStr(0, height-1, fmt.Sprintf("rows not shown: %d", rest))
	}
	s.Show()
}

func (s *topScreen) title() string {
	if s.err != nil {
		return fmt.Sprintf("nfproxy top: %s   (q quits)", s.err)
	}
	var all topRow
	for _, r := range s.rows {
		all.connections += r.connections
		all.refused += r.refused
		all.dropped += r.dropped
	}
	if s.byEndpoint {
		return fmt.Sprintf("nfproxy top: %s connections/s   (q quits)", perSecond(all.connections))
	}
	return fmt.Sprintf("nfproxy top: %s connections/s, %s refused/s, %s dropped/s   (q quits)",
		perSecond(all.connections), perSecond(all.refused), perSecond(all.dropped))
}
