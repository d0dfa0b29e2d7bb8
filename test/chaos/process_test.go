//go:build cluster

package chaos_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/manx-cni/manx/ipam"
)

// errDead means that the process was killed before it answered.
var errDead = errors.New("the agent was killed")

// process is a running helper.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ready chan struct{} // closed when it has said so
	ended chan struct{} // closed when all that it said has been read

	out    sync.Mutex
	orders *json.Encoder

	mu       sync.Mutex
	id       int
	waiting  map[int]chan answer // closed without a value when it is dead
	counters ipam.Counters       // with its latest answer
}

// startProcess runs this binary as a helper.
func startProcess(role string, s spec) (*process, error) {
	p := &process{
		cmd: exec.Command(os.Args[0], "-test.run=^$"), ready: make(chan struct{}), ended: make(chan struct{}),
		waiting: map[int]chan answer{},
	}
	p.cmd.Env = append(os.Environ(), envHelper+"="+role)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a helper: %w", err)
	}
	p.orders = json.NewEncoder(p.stdin)
	go p.read(stdout)
	return p, p.send(s)
}

func (p *process) read(stdout io.Reader) {
	defer close(p.ended)
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var a answer
		if json.Unmarshal(line, &a) != nil {
			continue // cut off by SIGKILL
		}
		if a.ID == 0 {
			close(p.ready)
			continue
		}
		p.mu.Lock()
		p.counters = a.Counters
		if c := p.waiting[a.ID]; c != nil {
			c <- a
			delete(p.waiting, a.ID)
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.waiting {
		close(c)
	}
	p.waiting = nil
}

// send writes a line; that the process is dead already shows elsewhere.
func (p *process) send(v any) error {
	p.out.Lock()
	defer p.out.Unlock()
	return p.orders.Encode(v)
}

// call has an order served. When ctx ends it tells the process that nobody waits.
func (p *process) call(ctx context.Context, o order) (answer, error) {
	c := make(chan answer, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return answer{}, errDead
	}
	p.id++
	o.ID, o.Timeout = p.id, orderTimeout
	p.waiting[o.ID] = c
	p.mu.Unlock()
	if p.send(o) != nil {
		return answer{}, errDead
	}
	select {
	case a, ok := <-c:
		if !ok {
			return a, errDead
		}
		if a.Err != "" {
			return a, errors.New(a.Err)
		}
		return a, nil
	case <-ctx.Done():
		_ = p.send(order{ID: o.ID, Verb: verbCancel})
		return answer{}, ctx.Err()
	}
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// stop lets the process end by itself, and kills it when it does not.
func (p *process) stop() {
	_ = p.stdin.Close()
	select {
	case <-p.ended:
	case <-time.After(patience):
	}
	p.kill()
}

// dead reports whether the process has ended.
func (p *process) dead() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) counted() ipam.Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counters
}
