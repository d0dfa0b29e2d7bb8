package controllers

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Settings is the configuration of manx-controllers, from its environment.
type Settings struct {
	Kubeconfig string // a file; empty: the pod's service account
	Namespace  string // of the lease
	LogLevel   slog.Level
	Collect    bool          // garbage collection is on
	LeakGrace  time.Duration // where KubeControllersConfiguration has none; 0: no collection
	Host       string        // of the listener
	Port       uint16        // of the listener
}

// Addr returns what metrics and probes listen on.
func (s Settings) Addr() string {
	host := s.Host
	if host == "localhost" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(int(s.Port)))
}

// setting is the one definition of one environment variable.
type setting struct {
	name, preset, accepts string
	doc                   string // a sentence or two, for the docs
	parse                 func(s *Settings, value string) (note string, err error)
}

const nodeController = "node"

// otherControllers are those of Calico's that Manx does not have.
var otherControllers = []string{"loadbalancer", "policy", "namespace", "serviceaccount", "workloadendpoint", "flannelmigration"}

var settings = []setting{
	{
		name: "ENABLED_CONTROLLERS", preset: nodeController, accepts: "a comma-separated list of controllers",
		doc: "`node` collects leaked addresses and what removed nodes leave; without it nothing is collected. Calico's other controllers " +
			"are ignored, which is logged once. Pools are always looked after, because a pool that is deleted waits for it.",
		parse: func(s *Settings, value string) (string, error) {
			var other []string
			for _, name := range strings.Split(value, ",") {
				switch name = strings.ToLower(strings.TrimSpace(name)); {
				case name == nodeController:
					s.Collect = true
				case slices.Contains(otherControllers, name):
					other = append(other, name+" (Calico's; Manx does not have it)")
				case name != "":
					other = append(other, name+" (unknown)")
				}
			}
			if len(other) > 0 {
				return "ignored: " + strings.Join(other, ", "), nil
			}
			return "", nil
		},
	},
	{
		name: "LEAK_GRACE_PERIOD", preset: "15m", accepts: "a duration of a second or more such as 15m; 0 for never",
		doc: "How long an address must look leaked, and a Node be gone, before anything is released. The `leakGracePeriod` of the " +
			"KubeControllersConfiguration `default` comes first; changing that needs no restart.",
		parse: func(s *Settings, value string) (note string, err error) {
			s.LeakGrace, err = time.ParseDuration(value)
			if err == nil && (s.LeakGrace < 0 || s.LeakGrace > 0 && s.LeakGrace < time.Second) {
				err = errors.New("shorter than a second")
			}
			return "", err
		},
	},
	{
		name: "LOG_LEVEL", preset: "info", accepts: "debug, info, warning, error or fatal; any case",
		doc: "The least severe level that is logged, to standard error.",
		parse: func(s *Settings, value string) (note string, err error) {
			levels := map[string]slog.Level{
				"debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "warn": slog.LevelWarn,
				"error": slog.LevelError, "fatal": slog.LevelError + 4, "none": slog.LevelError + 4,
			}
			level, ok := levels[strings.ToLower(value)]
			if !ok {
				return "", errors.New("not a log level")
			}
			s.LogLevel = level
			return "", nil
		},
	},
	{
		name: "METRICS_HOST", preset: "localhost", accepts: "localhost, a host name, or an IP address; 0.0.0.0 for every address",
		doc: "Where `/metrics` and the probes `/livez` and `/readyz` are served; " +
			"`localhost` is 127.0.0.1. The manifest's probes ask 127.0.0.1.",
		parse: func(s *Settings, value string) (string, error) { s.Host = value; return "", nil },
	},
	{
		name: "METRICS_PORT", preset: "9094", accepts: "1 to 65535",
		doc: "The TCP port of metrics and probes.",
		parse: func(s *Settings, value string) (string, error) {
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 {
				return "", errors.New("not a port")
			}
			s.Port = uint16(n)
			return "", nil
		},
	},
	{
		name: "POD_NAMESPACE", preset: "kube-system", accepts: "a namespace",
		doc:   "Where the Lease `manx-controllers` is kept.",
		parse: func(s *Settings, value string) (string, error) { s.Namespace = value; return "", nil },
	},
	{
		name: "KUBECONFIG", accepts: "a path",
		doc:   "A kubeconfig file to reach the Kubernetes API with. When empty: the pod's service account.",
		parse: func(s *Settings, value string) (string, error) { s.Kubeconfig = value; return "", nil },
	},
}

// compatible are variables of Calico's controllers that are accepted without
// effect, and the values that ask for what happens anyway.
var compatible = []struct {
	name  string
	quiet []string
	why   string
}{
	{"DATASTORE_TYPE", []string{"kubernetes"}, "the Kubernetes API is the only datastore"},
	{"RECONCILER_PERIOD", nil, "objects are watched; a look is taken every minute"},
	{"COMPACTION_PERIOD", nil, "the Kubernetes API is the only datastore"},
	{"HEALTH_ENABLED", []string{"true"}, "the probes are always served"},
	{"AUTO_HOST_ENDPOINTS", []string{"disabled"}, "this version of Manx has no host endpoints"},
	{"SYNC_NODE_LABELS", nil, "node data is the Kubernetes Node itself"},
}

// ParseSettings reads the environment, given as NAME=value strings; an empty value
// counts as not set. The notes are what the user should know of. The error joins
// one line for every bad value.
func ParseSettings(environ []string) (s Settings, notes []string, err error) {
	env := map[string]string{}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			env[name] = value
		}
	}
	var errs []error
	for _, d := range settings {
		value := env[d.name]
		if value == "" {
			value = d.preset
		}
		note, err := d.parse(&s, value)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s=%q: %w; want %s", d.name, value, err, d.accepts))
		}
		if note != "" {
			notes = append(notes, fmt.Sprintf("%s=%q: %s", d.name, value, note))
		}
	}
	for _, c := range compatible {
		if v := env[c.name]; v != "" && !slices.Contains(c.quiet, strings.ToLower(v)) {
			notes = append(notes, fmt.Sprintf("%s=%q: no effect: %s", c.name, v, c.why))
		}
	}
	return s, notes, errors.Join(errs...)
}
