package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/manx-cni/manx/api/settings"
	"github.com/manx-cni/manx/internal/nearest"
)

// entryKeys are the specification's, and those of plugins that are given all of a
// configuration. What is below them is theirs. topKeys are those of a list.
var (
	entryKeys = []string{"args", "capabilities", "runtimeConfig", "dns", "ipMasq", "routes"}
	topKeys   = []string{"cniVersion", "cniVersions", "name", "plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}
)

// Unused says which keys of the plugin's part of a network configuration have no effect
// as they are set: those that Manx does not act on, with the reason, and those that no
// program knows, with the name that is probably meant. It says nothing of bad values,
// which ParseNetConf refuses.
func Unused(entry map[string]json.RawMessage) []string {
	known := slices.Clone(entryKeys)
	for _, k := range settings.CNIKeys {
		known = append(known, k.Name)
	}
	return unused("", entry, append(known, objects...))
}

// maxUnused bounds how many keys are told of.
const maxUnused = 16

// unusedIn is Unused of a configuration that ParseNetConf has read.
func unusedIn(stdin []byte) []string {
	var entry map[string]json.RawMessage
	if json.Unmarshal(stdin, &entry) != nil {
		return nil
	}
	out := Unused(entry)
	return out[:min(len(out), maxUnused)]
}

// UnusedOfList is Unused for the keys of the list that has the plugin's part.
func UnusedOfList(list map[string]json.RawMessage) (out []string) {
	for _, key := range slices.Sorted(maps.Keys(list)) {
		if !slices.Contains(topKeys, key) && !strings.Contains(key, "/") {
			out = append(out, unknown(key, topKeys))
		}
	}
	return out
}

func unused(prefix string, keys map[string]json.RawMessage, known []string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		key, raw := prefix+name, keys[name]
		if text := string(raw); text == "null" || text == `""` {
			continue // as if it were not there
		}
		var inner map[string]json.RawMessage
		if slices.Contains(objects, key) && json.Unmarshal(raw, &inner) == nil {
			out = append(out, unused(key+".", inner, known)...)
			continue
		}
		i := slices.IndexFunc(settings.CNIKeys, func(e settings.Entry) bool { return e.Name == key })
		switch {
		case i >= 0:
			e := settings.CNIKeys[i]
			if e.Effect != settings.ActedOn && !e.AsksNothing(strings.Trim(string(raw), `"`)) {
				out = append(out, fmt.Sprintf("%s=%s has no effect: %s", key, short(strings.Join(strings.Fields(string(raw)), " ")), e.Why))
			}
		case strings.Contains(name, "/"), prefix == "" && slices.Contains(entryKeys, key):
			// a name with a domain in front belongs to that domain's owner
		default:
			out = append(out, unknown(key, known))
		}
	}
	return out
}

func unknown(key string, known []string) string {
	text := short(key) + ": no such key, ignored"
	if near := nearest.Name(key, known); near != "" {
		text += "; did you mean " + near + "?"
	}
	return text
}

// short bounds what is repeated of a configuration.
func short(s string) string {
	const limit = 80
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
