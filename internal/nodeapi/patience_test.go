package nodeapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/progress"
)

// What this program is when it is started again by a test.
const (
	// spinHere: a process that listens, takes a request, wants the processor for as long
	// as spinFor says, and then answers.
	spinHere = "NODEAPI_TEST_SPIN"
	spinFor  = 1500 * time.Millisecond
	// askHere: a process that asks for an address, and says so, and prints the answer.
	askHere = "NODEAPI_TEST_ASK"
	// The patience of the client in these tests.
	testPatience, testSilence = 100 * time.Millisecond, 400 * time.Millisecond
)

// beSomebodyElse does what the environment asks for and ends, or does nothing.
func beSomebodyElse() {
	for env, be := range map[string]func(string) error{listenHere: listenForEver, spinHere: spinThenAnswer, askHere: askAndWait} {
		if path := os.Getenv(env); path != "" {
			if err := be(path); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
}

func spinThenAnswer(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	fmt.Println("listening")
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return err
	}
	for begin := time.Now(); time.Since(begin) < spinFor; { //nolint:revive // this is the point
	}
	_, err = io.WriteString(conn, "{}\n")
	return err
}

func askAndWait(path string) error {
	c, err := Dial(context.Background(), path)
	if err != nil {
		return err
	}
	defer c.Close()
	c.agent.patience, c.agent.silence = testPatience, testSilence
	if err := c.SendAdd(context.Background(), AddRequest{Endpoint: endpoint("asked")}); err != nil {
		return err
	}
	fmt.Println("asked")
	reply, err := c.RecvAdd(context.Background())
	if err != nil {
		return err
	}
	fmt.Println("got", reply.Addrs)
	return nil
}

// program starts this test again as another program and returns it with its output,
// after its first line.
func program(t *testing.T, env, path, says string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), env+"="+path)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); err != nil || line != says+"\n" {
		t.Fatalf("%q, %v; want %q", line, err, says)
	}
	return cmd, out
}

// stopProcess returns when the process is stopped.
func stopProcess(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(p.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process is not stopped: %v, %v", status, err)
	}
}

// A client that gets no processor for longer than its patience with silence finds what
// the agent said meanwhile, and waits on. It is no sign of the agent's death that the
// client looks late.
func TestClientThatDidNotRun(t *testing.T) {
	release := make(chan struct{})
	h := &recorder{}
	h.add = func(ctx context.Context, req AddRequest) (AddReply, error) {
		<-release
		return AddReply{}, nil
	}
	path, _ := start(t, h, func(l *limits) { l.busy = 20 * time.Millisecond })
	client, out := program(t, askHere, path, "asked")
	wantCalls(t, h, "add asked")
	stopProcess(t, client.Process)
	time.Sleep(2 * testSilence) //nolint:forbidigo // how long the client is stopped is what the test is about
	if err := client.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*testSilence, func() { close(release) })
	if line, err := out.ReadString('\n'); line != "got []\n" {
		t.Errorf("the client says %q, %v", line, err)
	}
	wantCalls(t, h, "add asked", "abort asked")
}

// What has come is taken also when the caller's time is over, and the read's deadline
// with it: the two may have passed while the client did not run.
func TestAnswerThatWasThereInTime(t *testing.T) {
	here, there := unixPair(t)
	c := newClient("s", here)
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := io.WriteString(there, `{"busy":true}`+"\n"+`{"body":"an answer"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := c.recv(over, opStatus, &got); err != nil || got != "an answer" {
		t.Errorf("%q, %v", got, err)
	}
	if err := c.recv(over, opStatus, &got); !errors.As(err, new(*UnreachableError)) {
		t.Errorf("with nothing there: %v", err)
	}
}

// An agent that wants the processor is slow and not hung, however long it is silent.
func TestAgentWithoutProcessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	agent, _ := program(t, spinHere, path, "listening")
	c := dial(t, path)
	c.agent.patience, c.agent.silence = testPatience, testSilence
	begin := time.Now()
	err := c.Ping(t.Context())
	if took := time.Since(begin); err != nil || took < spinFor {
		t.Errorf("after %v: %v; want an answer after %v", took, err, spinFor)
	}
	_ = agent.Wait()
}

// When the caller's time is over, such an agent is called what it is.
func TestAgentWithoutProcessorForTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	agent, _ := program(t, spinHere, path, "listening")
	c := dial(t, path)
	c.agent.patience, c.agent.silence = testPatience, testSilence
	ctx, cancel := context.WithTimeout(t.Context(), spinFor/2)
	defer cancel()
	err := c.Ping(ctx)
	want := fmt.Sprintf("process %d runs and gets no processor to answer with): this node has too little processor time or memory",
		agent.Process.Pid)
	if !errors.As(err, new(*UnreachableError)) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v; want %q", err, want)
	}
}

// The plugin's time is over and the agent still works: the error names what the agent
// waits for, and since when.
func TestSlowAgentSaysWhy(t *testing.T) {
	waitsForBlock := func(ctx context.Context) func() {
		return progress.Wait(ctx, progress.Text("the API server has not answered the write of block 10.244.1.64/26"), progress.CheckAPIServer)
	}
	const why = "the API server has not answered the write of block 10.244.1.64/26 for "
	for name, tc := range map[string]struct {
		wait func(context.Context) func()
		want []string
	}{
		"with its reason": {waitsForBlock, []string{
			"the Manx agent of this node is not done with add after ", why, "s: check the API server and the network between it and this node",
		}},
		"without": {nil, []string{"is not done with add after ", ": see the log of the manx-node pod of this node"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := &recorder{add: func(ctx context.Context, _ AddRequest) (AddReply, error) {
				if tc.wait != nil {
					defer tc.wait(ctx)()
				}
				<-ctx.Done()
				return AddReply{}, ctx.Err()
			}}
			path, stop := start(t, h, func(l *limits) { l.busy, l.work = 20*time.Millisecond, time.Minute })
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			c := dial(t, path)
			_, err := c.Add(ctx, AddRequest{Endpoint: endpoint("a")})
			if !errors.As(err, new(*SlowError)) || AsError(err).Code != CodeTryAgain {
				t.Fatalf("%v; want a SlowError and code 11", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q", err, want)
				}
			}
			c.Close()
			stop()
		})
	}
}

// A DEL that waits for the ADD of its container says so.
func TestWaitForAnEarlierRequest(t *testing.T) {
	h := &recorder{add: func(ctx context.Context, _ AddRequest) (AddReply, error) {
		<-ctx.Done()
		return AddReply{}, ctx.Err()
	}}
	path, _ := start(t, h, func(l *limits) { l.busy, l.work = 20*time.Millisecond, time.Second })
	adder := dial(t, path)
	if err := adder.SendAdd(t.Context(), AddRequest{Endpoint: endpoint("a")}); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, h, "add a")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := dial(t, path).Del(ctx, DelRequest{endpoint("a")})
	if want := "an earlier request for container a has not ended for "; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v; want %q", err, want)
	}
}

// Plugin and agent may be of different versions for a moment.
func TestFramesOfOtherVersions(t *testing.T) {
	frame, err := frameOf(reply{Busy: true, Awaits: &progress.Awaited{Missing: "m", Remedy: "r", For: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	// The reply of a plugin that knows of no reason.
	var old struct {
		Busy  bool            `json:"busy,omitempty"`
		Body  json.RawMessage `json:"body,omitempty"`
		Error *Error          `json:"error,omitempty"`
	}
	if err := json.Unmarshal(frame, &old); err != nil || !old.Busy || old.Body != nil || old.Error != nil {
		t.Errorf("an older plugin reads %s as %+v, %v", frame, old, err)
	}
	for name, frames := range map[string]string{
		"an older agent": `{"busy":true}` + "\n" + `{"busy":true}` + "\n{}\n",
		"a newer agent": `{"busy":true,"awaits":{"missing":"m","for":1,"new":{"a":[1]}},"new":2}` +
			"\n" + `{"busy":true,"awaits":null}` + "\n{}\n",
	} {
		here, there := unixPair(t)
		if _, err := io.WriteString(there, frames); err != nil {
			t.Fatal(err)
		}
		if err := newClient("s", here).recv(t.Context(), opPing, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What lies in the socket is read though the deadline has passed, by the server too,
// and no more than that.
func TestLateReader(t *testing.T) {
	here, there := unixPair(t)
	if err := here.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(lateReader{here})
	for range 2 {
		if _, err := r.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("with nothing there: %v", err)
		}
		if _, err := io.WriteString(there, "{}\n"); err != nil {
			t.Fatal(err)
		}
		var req request
		if err := readFrame(r, maxRequest, &req); err != nil {
			t.Error(err)
		}
	}
	there.Close()
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestWriteLate(t *testing.T) {
	here, there := unixPair(t)
	if err := writeLate(here, []byte("x"), -time.Hour); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deadline that has always passed: %v", err)
	}
	if err := writeLate(here, []byte("{}\n"), time.Second); err != nil {
		t.Error(err)
	}
	var r reply
	if err := readFrame(bufio.NewReader(there), maxReply, &r); err != nil {
		t.Errorf("the frame that was written: %v", err)
	}
}
