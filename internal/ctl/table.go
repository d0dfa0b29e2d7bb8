package ctl

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table is a table in the look of calicoctl's: a border of + - |, headings centred.
type table struct {
	headings []string
	right    map[int]bool // columns of numbers
	rows     [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.headings))
	for _, row := range append([][]string{t.headings}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	rule := func() {
		for _, n := range widths {
			b.WriteString("+" + strings.Repeat("-", n+2))
		}
		b.WriteString("+\n")
	}
	line := func(row []string, place func(column, gap int) (left int)) {
		for i, cell := range row {
			gap := widths[i] - utf8.RuneCountInString(cell)
			left := place(i, gap)
			fmt.Fprintf(&b, "| %s%s%s ", strings.Repeat(" ", left), cell, strings.Repeat(" ", gap-left))
		}
		b.WriteString("|\n")
	}
	rule()
	line(t.headings, func(_, gap int) int { return gap / 2 })
	rule()
	for _, row := range t.rows {
		line(row, func(column, gap int) int {
			if t.right[column] {
				return gap
			}
			return 0
		})
	}
	rule()
	_, err := io.WriteString(w, b.String())
	return err
}
