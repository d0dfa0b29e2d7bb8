package install

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/manx-cni/manx/cni-plugin/plugin"
)

// specVersions are the versions of the CNI specification that the plugin speaks
// and that know lists of plugins.
var specVersions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

var placeholder = regexp.MustCompile(`__[A-Z0-9_]+?__`)

// render fills the placeholders and checks the outcome. It returns the file's
// content and the plugins it names.
func (c Config) render() (conflist []byte, types []string, err error) {
	bad := slices.Clone(c.bad)
	source, text := "CNI_NETWORK_CONFIG", c.NetworkConfig
	if c.NetworkConfigFile != "" {
		raw, err := os.ReadFile(c.NetworkConfigFile)
		if err != nil {
			return nil, nil, fmt.Errorf("CNI_NETWORK_CONFIG_FILE: %w", err)
		}
		source, text = "CNI_NETWORK_CONFIG_FILE "+c.NetworkConfigFile, string(raw)
	}
	if strings.TrimSpace(text) == "" {
		return nil, nil,
			fmt.Errorf("CNI_NETWORK_CONFIG is empty, want a CNI configuration list (or CNI_NETWORK_CONFIG_FILE with the path of one)")
	}
	if n, err := strconv.Atoi(c.MTU); err != nil || n < 0 || n > 65535 {
		bad = append(bad, fmt.Sprintf("CNI_MTU is %q, want a number of bytes, 0 (the agent decides) to 65535", c.MTU))
	}
	values := map[string]string{
		"__KUBERNETES_NODE_NAME__": quoted(c.NodeName),
		"__CNI_MTU__":              c.MTU,
		"__LOG_LEVEL__":            quoted(c.LogLevel),
		"__DATASTORE_TYPE__":       quoted(c.DatastoreType),
		"__KUBECONFIG_FILEPATH__":  "", // there is no kubeconfig
	}
	if c.NodeName == "" && strings.Contains(text, "__KUBERNETES_NODE_NAME__") {
		bad = append(bad, "KUBERNETES_NODE_NAME is empty, want the node's name (the downward API has it as spec.nodeName)")
	}
	var unknown []string
	text = placeholder.ReplaceAllStringFunc(text, func(p string) string {
		if v, ok := values[p]; ok {
			return v
		}
		unknown = append(unknown, p)
		return p
	})
	if len(unknown) > 0 {
		bad = append(bad, fmt.Sprintf("%s has the placeholders %s, "+
			"want only %s: the plugin connects to nothing but its agent and no credential is written to the node",
			source, strings.Join(unknown, ", "), strings.Join(slices.Sorted(maps.Keys(values)), ", ")))
	}
	if len(bad) > 0 {
		return nil, nil, fmt.Errorf("install the CNI plugin: %s", strings.Join(bad, "; "))
	}
	types, err = validate([]byte(text))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", source, err)
	}
	return []byte(strings.TrimRight(text, "\n") + "\n"), types, nil
}

// quoted is a value as it stands inside the quotes of a JSON string.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("encode the string %q: %v", s, err)) // strings always encode
	}
	return string(b[1 : len(b)-1])
}

type pluginList struct {
	CNIVersion  string                       `json:"cniVersion"`
	CNIVersions []string                     `json:"cniVersions"`
	Name        string                       `json:"name"`
	Plugins     []map[string]json.RawMessage `json:"plugins"`
}

// validate reads a configuration list as a container runtime would, and Manx's
// entry as the plugin would: what would fail every pod fails here, once.
func validate(text []byte) (types []string, err error) {
	var list pluginList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("not a CNI configuration list: %w", describe(text, err))
	}
	if list.Name == "" {
		return nil, fmt.Errorf("name is missing, want the network's name, k8s-pod-network")
	}
	if e := utils.ValidateNetworkName(list.Name); e != nil {
		return nil, fmt.Errorf("name is %q, want letters, digits, '_', '.' and '-'", list.Name)
	}
	if !slices.Contains(specVersions, list.CNIVersion) {
		return nil, fmt.Errorf("cniVersion is %q, want one of %q", list.CNIVersion, specVersions)
	}
	for _, v := range list.CNIVersions {
		if !slices.Contains(specVersions, v) {
			return nil, fmt.Errorf("cniVersions has %q, want some of %q", v, specVersions)
		}
	}
	if len(list.Plugins) == 0 {
		return nil, fmt.Errorf("plugins is empty, want manx as the first of a list")
	}
	for i, p := range list.Plugins {
		var name string
		if json.Unmarshal(p["type"], &name) != nil || name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return nil, fmt.Errorf("plugins[%d].type is %s, want the file name of a plugin", i, p["type"])
		}
		types = append(types, name)
	}
	if types[0] != "manx" {
		return nil, fmt.Errorf("plugins[0].type is %q, want manx first: the others work on the interface that it makes", types[0])
	}
	if err := validateManx(list); err != nil {
		return nil, err
	}
	return types, nil
}

// validateManx gives the plugin its part, with the name and version that the
// runtime puts in.
func validateManx(list pluginList) error {
	entry := list.Plugins[0]
	for key, value := range map[string]string{"name": list.Name, "cniVersion": list.CNIVersion} {
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		entry[key] = raw
	}
	raw, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	_, err = plugin.ParseNetConf(raw)
	return err
}

// Unused says which keys of a configuration list, and of Manx's entry in it, have no
// effect; name is the network's.
func Unused(conflist []byte) (name string, keys []string) {
	var top map[string]json.RawMessage
	var list pluginList
	if json.Unmarshal(conflist, &top) != nil || json.Unmarshal(conflist, &list) != nil || len(list.Plugins) == 0 {
		return "", nil
	}
	return list.Name, append(plugin.UnusedOfList(top), plugin.Unused(list.Plugins[0])...)
}

// describe adds the line of a syntax error.
func describe(text []byte, err error) error {
	if e, ok := err.(*json.SyntaxError); ok {
		before := text[:min(int(e.Offset), len(text))]
		return fmt.Errorf("line %d: %w", 1+strings.Count(string(before), "\n"), err)
	}
	return err
}

// startsWithManx says whether a configuration list is this plugin's.
func startsWithManx(text []byte) bool {
	var list pluginList
	if json.Unmarshal(text, &list) != nil || len(list.Plugins) == 0 {
		return false
	}
	var name string
	return json.Unmarshal(list.Plugins[0]["type"], &name) == nil && name == "manx"
}
