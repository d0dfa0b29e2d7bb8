// Package audit is the audit log of a lab's API server: how it is written, and the
// requests in it. It answers who asked what how often, which no metric does: those
// count verbs and resources, not clients.
//
// A line is written for each request once it is answered, with its metadata and
// without bodies, from a buffer: requests do not wait for the disk. A watch has its
// line when it ends. Health checks and the API server's requests to itself have none.
package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Policy says what is logged.
const Policy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
omitManagedFields: true
rules:
- {level: None, nonResourceURLs: ["*"]}
- {level: None, users: ["system:apiserver"]}
- {level: Metadata}
`

// maxMegabytes is when the API server begins another file. A test that looks at a
// window is not cut in two by it: a busy lab writes a megabyte in some seconds.
const maxMegabytes = 512

// Flags are those of an API server that logs by the policy file.
func Flags(policy, log string) []string {
	return []string{
		"--audit-policy-file=" + policy, "--audit-log-path=" + log, "--audit-log-mode=batch",
		fmt.Sprintf("--audit-log-maxsize=%d", maxMegabytes), "--audit-log-maxbackup=1",
	}
}

// ServiceAccount is the user that the pods of a service account are.
func ServiceAccount(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// Request is a request that the API server has answered.
type Request struct {
	User, Agent string
	From        netip.Addr // of the client
	// Verb is Kubernetes' own: get, list, watch, create, update, patch, delete, deletecollection.
	Verb string
	// Resource is the plural, with its subresource: pods, pods/status.
	Resource, Namespace, Name string
	Status                    int // of HTTP
	Received, Answered        time.Time
}

// Write reports whether the request was to change something.
func (r Request) Write() bool { return !slices.Contains([]string{"get", "list", "watch"}, r.Verb) }

func (r Request) String() string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s %s/%s", r.Verb, r.Resource, r.Namespace, r.Name), "/")
}

// Log is requests in the order in which they were answered.
type Log []Request

// event is what we read of audit.k8s.io/v1 Event.
type event struct {
	Verb      string
	UserAgent string
	User      struct{ Username string }
	SourceIPs []string
	ObjectRef *struct{ Resource, Subresource, Namespace, Name string }

	ResponseStatus           *struct{ Code int }
	RequestReceivedTimestamp time.Time
	StageTimestamp           time.Time
}

// Read reads the lines of an audit log. A last line without its end, which is being
// written, is left out.
func Read(r io.Reader) (Log, error) {
	var log Log
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			return log, nil
		case err != nil:
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read the audit log: line %.200q: %w", line, err)
		}
		log = append(log, e.request())
	}
}

func (e event) request() Request {
	r := Request{
		User: e.User.Username, Agent: e.UserAgent, Verb: e.Verb,
		Received: e.RequestReceivedTimestamp, Answered: e.StageTimestamp,
	}
	if len(e.SourceIPs) > 0 {
		r.From, _ = netip.ParseAddr(e.SourceIPs[0]) // what is no address stays invalid
	}
	if o := e.ObjectRef; o != nil {
		r.Resource, r.Namespace, r.Name = o.Resource, o.Namespace, o.Name
		if o.Subresource != "" {
			r.Resource += "/" + o.Subresource
		}
	}
	if e.ResponseStatus != nil {
		r.Status = e.ResponseStatus.Code
	}
	return r
}

// Only is the requests that keep says yes to.
func (l Log) Only(keep func(Request) bool) Log {
	var out Log
	for _, r := range l {
		if keep(r) {
			out = append(out, r)
		}
	}
	return out
}

// By is the requests of a user.
func (l Log) By(user string) Log { return l.Only(func(r Request) bool { return r.User == user }) }

// From is the requests that came from an address.
func (l Log) From(a netip.Addr) Log { return l.Only(func(r Request) bool { return r.From == a }) }

// Verbs is the requests with one of the verbs.
func (l Log) Verbs(verbs ...string) Log {
	return l.Only(func(r Request) bool { return slices.Contains(verbs, r.Verb) })
}

// Of is the requests for one of the resources.
func (l Log) Of(resources ...string) Log {
	return l.Only(func(r Request) bool { return slices.Contains(resources, r.Resource) })
}

// Writes is the requests that were to change something.
func (l Log) Writes() Log { return l.Only(Request.Write) }

// Between is the requests that the API server received in a span of time, ends included.
func (l Log) Between(from, to time.Time) Log {
	return l.Only(func(r Request) bool { return !r.Received.Before(from) && !r.Received.After(to) })
}

// Count is how many there are of each "verb resource".
func (l Log) Count() map[string]int {
	n := map[string]int{}
	for _, r := range l {
		n[r.Verb+" "+r.Resource]++
	}
	return n
}
