package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// compat is a variable of Calico's manifests that Manx accepts without acting
// on it.
type compat struct {
	name     string
	harmless []string // values that ask for what happens anyway; any case
	why      string   // completes "no effect: …"
	// refused stops the start for any other value, because going on would be
	// less safe than what the variable asks for.
	refused bool
}

const (
	whyMTU       = "this version of Manx has no such tunnel"
	whyClear     = "this version of Manx does not encrypt, and traffic must not leave in clear when encryption was asked for; false comes before a FelixConfiguration's "
	whyDetected  = "Manx decides from the pools"
	whyNoTypha   = "agents watch the Kubernetes API themselves"
	whyStderr    = "Manx logs to standard error only"
	whyNoPodCIDR = "addresses come from blocks of the pools, not from Node.spec.podCIDR"
)

// compatible are the variables that are accepted without effect.
var compatible = []compat{
	{name: "DATASTORE_TYPE", harmless: []string{"kubernetes"}, why: "the Kubernetes API is the only datastore", refused: true},
	{name: "FELIX_DATASTORETYPE", harmless: []string{"kubernetes"}, why: "the Kubernetes API is the only datastore", refused: true},
	{name: "FELIX_WIREGUARDENABLED", harmless: falsy, why: whyClear + "wireguardEnabled", refused: true},
	{name: "FELIX_WIREGUARDENABLEDV6", harmless: falsy, why: whyClear + "wireguardEnabledV6", refused: true},
	{name: "CALICO_DISABLE_FILE_LOGGING", harmless: []string{"true"}, why: whyStderr},
	{name: "CALICO_STARTUP_LOGLEVEL", why: "FELIX_LOGSEVERITYSCREEN holds from the first line on"},
	{name: "CALICO_K8S_NODE_REF", why: "the Kubernetes Node is the one that NODENAME names"},
	{name: "CALICO_MANAGE_CNI", harmless: []string{"true", "false"}, why: "the CNI plugin has no credential to refresh"},
	{name: "CALICO_NETWORKING", harmless: []string{"true"}, why: "use CALICO_NETWORKING_BACKEND"},
	{name: "CALICO_IPV6POOL_VXLAN", harmless: []string{"never", "off"}, why: "this version of Manx has no VXLAN; packets to an IPv6 pool travel as they are", refused: true},
	{name: "USE_POD_CIDR", harmless: falsy, why: whyNoPodCIDR},
	{name: "FELIX_DEFAULTENDPOINTTOHOSTACTION", harmless: []string{"accept", "return"}, why: "pods may reach their own host; this version of Manx has no policy"},
	{name: "FELIX_INTERFACEPREFIX", harmless: []string{"cali"}, why: "host interfaces of pods are always called cali…"},
	{name: "FELIX_VXLANENABLED", harmless: falsy, why: whyDetected},
	{name: "FELIX_VXLANMTU", harmless: []string{"0"}, why: whyMTU},
	{name: "FELIX_WIREGUARDMTU", harmless: []string{"0"}, why: whyMTU},
	{name: "FELIX_BPFENABLED", harmless: falsy, why: "the dataplane is routes and nftables"},
	{name: "FELIX_TYPHAK8SSERVICENAME", harmless: []string{"none"}, why: whyNoTypha},
	{name: "FELIX_LOGSEVERITYFILE", harmless: []string{"none"}, why: whyStderr},
	{name: "FELIX_LOGSEVERITYSYS", harmless: []string{"none"}, why: whyStderr},
	{name: "FELIX_LOGFILEPATH", harmless: []string{"none"}, why: whyStderr},
	{name: "FELIX_FELIXHOSTNAME", why: "use NODENAME"},
}

var falsy = []string{"false", "0", "no", "n", "f"}

// checkCompat reports values that ask for something that does not happen.
func checkCompat(env map[string]string) (warnings []Warning, errs []error) {
	for _, c := range compatible {
		v := env[c.name]
		if v == "" || slices.Contains(c.harmless, strings.ToLower(v)) {
			continue
		}
		if c.refused {
			errs = append(errs, fmt.Errorf("%s=%q: %s; want %s, or unset", c.name, v, c.why, c.harmless[0]))
			continue
		}
		warnings = append(warnings, Warning{c.name, v, "no effect: " + c.why})
	}
	return warnings, errs
}

// serviceLink matches what the kubelet puts into every container's environment
// for a Service called calico-… in its namespace. Those are not settings.
var serviceLink = regexp.MustCompile(`^CALICO_[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unknown reports variables in Calico's name spaces that nobody reads.
func unknown(env map[string]string) (out []Warning) {
	for name, value := range env {
		if !strings.HasPrefix(name, "FELIX_") && !strings.HasPrefix(name, "CALICO_") || isKnown(name) || serviceLink.MatchString(name) {
			continue
		}
		text := "not a setting of Manx, ignored"
		if near := nearest(name); near != "" {
			text += "; did you mean " + near + "?"
		}
		out = append(out, Warning{name, value, text})
	}
	return out
}

func isKnown(name string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return s.name == name }) ||
		slices.ContainsFunc(compatible, func(c compat) bool { return c.name == name })
}

// nearest returns the setting that name is probably a misspelling of.
func nearest(name string) (best string) {
	least := 3 // edits; more is another word
	for _, s := range settings {
		if d := distance(name, s.name); d < least {
			least, best = d, s.name
		}
	}
	return best
}

// distance is Levenshtein's, over bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
