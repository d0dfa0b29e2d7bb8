package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/manx-cni/manx/test/lab/kubebuild"
)

// screen is where steps are shown.
var screen = newPrinter(os.Stderr)

// progress returns a printer of steps with the seconds since it was made.
func progress() func(string) {
	screen.restart()
	return screen.step
}

// printer prints steps, each a line with the seconds since the start. On a terminal it
// also has a last line that is rewritten, for what a build tells several times a second.
type printer struct {
	w     io.Writer
	width func() int // of the terminal in columns, 0 when w is none

	mu      sync.Mutex
	start   time.Time
	pending bool // the cursor is on the last line
}

func newPrinter(f *os.File) *printer {
	return &printer{w: f, start: time.Now(), width: func() int {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			return w
		}
		return 0
	}}
}

// context has what runs under it rewrite the last line, when there is a terminal.
func (p *printer) context(ctx context.Context) context.Context {
	if p.width() == 0 {
		return ctx
	}
	return kubebuild.WithMeter(ctx, p.rewrite)
}

func (p *printer) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start = time.Now()
}

func (p *printer) step(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(p.w, p.stamped(line))
}

// rewrite puts a line in the place of the one it wrote before; an empty one only removes that.
func (p *printer) rewrite(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	if line == "" {
		return
	}
	runes := []rune(p.stamped(line))
	if w := p.width(); w > 0 && len(runes) >= w {
		runes = runes[:w-1] // a line that wraps could not be rewritten
	}
	fmt.Fprint(p.w, string(runes))
	p.pending = true
}

// clear removes the last line.
func (p *printer) clear() {
	if p.pending {
		fmt.Fprint(p.w, "\r\x1b[K") // ECMA-48: erase to the end of the line
		p.pending = false
	}
}

func (p *printer) stamped(line string) string {
	return fmt.Sprintf("[%5.1f s] %s", time.Since(p.start).Seconds(), line)
}
