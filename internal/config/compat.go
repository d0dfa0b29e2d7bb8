package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	table "github.com/manx-cni/manx/api/settings"
	"github.com/manx-cni/manx/internal/nearest"
)

// checkCompat reports values that ask for something that does not happen: the variables
// of api/settings that are accepted from Calico's manifests without effect.
func checkCompat(env map[string]string) (warnings []Warning, errs []error) {
	for _, e := range table.Variables {
		v := env[e.Name]
		if v == "" || slices.Contains(e.Quiet, strings.ToLower(v)) {
			continue
		}
		if e.Effect == table.Refused {
			errs = append(errs, fmt.Errorf("%s=%q: %s; want %s, or unset", e.Name, v, e.Why, e.Quiet[0]))
			continue
		}
		warnings = append(warnings, Warning{e.Name, v, "no effect: " + e.Why})
	}
	return warnings, errs
}

// serviceLink matches what the kubelet puts into every container's environment
// for a Service called calico-… in its namespace. Those are not settings.
var serviceLink = regexp.MustCompile(
	`^CALICO_[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unknown reports variables in Calico's name spaces that are not read.
func unknown(env map[string]string) (out []Warning) {
	for name, value := range env {
		if !strings.HasPrefix(name, "FELIX_") && !strings.HasPrefix(name, "CALICO_") || isKnown(name) || serviceLink.MatchString(name) {
			continue
		}
		text := "not a setting of Manx, ignored"
		if near := nearest.Name(name, names()); near != "" {
			text += "; did you mean " + near + "?"
		} else if ofCalico(name) {
			text = "no effect: a setting of Calico's that this version of Manx does not have"
		}
		out = append(out, Warning{name, value, text})
	}
	return out
}

func isKnown(name string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return s.name == name }) ||
		slices.ContainsFunc(table.Variables, func(e table.Entry) bool { return e.Name == name })
}

// names are those of the variables that are acted on.
func names() (out []string) {
	for _, s := range settings {
		out = append(out, s.name)
	}
	return out
}

// ofCalico reports whether Felix has a setting of that name, which is that of a field
// of FelixConfiguration in capitals.
func ofCalico(name string) bool {
	field, isFelix := strings.CutPrefix(name, "FELIX_")
	felix, _ := table.Of("FelixConfiguration")
	return isFelix && slices.ContainsFunc(felix.Calico, func(c string) bool { return strings.EqualFold(c, field) })
}
