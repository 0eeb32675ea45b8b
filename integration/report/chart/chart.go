// Package chart has the style that all plots share. They have a white background, so that they are legible on pages of any colour.
package chart

import (
	"image/color"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// New returns a plot with a grid, and with the legend at the top left.
func New(title, x, y string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = x
	p.Y.Label.Text = y
	p.Legend.Top = true
	p.Legend.Left = true
	p.Add(plotter.NewGrid())
	p.X.Tick.Marker, p.Y.Tick.Marker = Ticks{}, Ticks{}
	return p
}

// Save writes a plot as SVG.
func Save(p *plot.Plot, path string) error { return p.Save(18*vg.Centimeter, 7.5*vg.Centimeter, path) }

// Colors returns colours that are distinguishable with colour blindness too (Okabe and Ito).
func Colors() []color.Color {
	return []color.Color{
		color.RGBA{R: 0xd5, G: 0x5e, A: 0xff}, color.RGBA{G: 0x72, B: 0xb2, A: 0xff},
		color.RGBA{G: 0x9e, B: 0x73, A: 0xff}, color.RGBA{R: 0xcc, G: 0x79, B: 0xa7, A: 0xff},
	}
}

// Ticks are plot.DefaultTicks with labels that have no more digits than they need.
type Ticks struct{}

// Ticks returns the ticks of an axis.
func (Ticks) Ticks(least, most float64) []plot.Tick {
	all := plot.DefaultTicks{}.Ticks(least, most)
	for i := range all {
		if all[i].Label != "" {
			all[i].Label = strconv.FormatFloat(all[i].Value, 'g', 6, 64)
		}
	}
	return all
}
