package lab

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/test/lab/controlplane"
)

const (
	// hostContainer prepares the node, IPv6 forwarding included.
	hostContainer = "init-host"
	// cniConfigMap has the CNI configuration under the key cniKey.
	cniConfigMap, cniKey = "manx-config", "cni_network_config"
)

// variables6 are what each of the containers is told of IPv6.
var variables6 = map[string][][2]string{
	hostContainer:  {{"IP6", "autodetect"}},
	agentContainer: {{"IP6", "autodetect"}, {"CALICO_IPV6POOL_CIDR", controlplane.PodCIDR6}},
}

// DualStackManifest is a pod network's manifest with IPv6 beside IPv4: as a user would,
// it sets IP6 and CALICO_IPV6POOL_CIDR in the environment, and assign_ipv6 in the CNI
// configuration. A manifest that lacks a place for one of them is an error; all its other
// objects keep every byte.
func DualStackManifest(manifest []byte) ([]byte, error) {
	docs := strings.Split(string(manifest), separator)
	found := map[string]int{}
	for i, doc := range docs {
		var obj map[string]any
		if err := yaml.Unmarshal([]byte(doc), &obj); err != nil {
			return nil, fmt.Errorf("make the manifest dual-stack: document %d: %w", i+1, err)
		}
		places, err := withIPv6(obj)
		if err != nil {
			return nil, fmt.Errorf("make the manifest dual-stack: document %d: %w", i+1, err)
		}
		if len(places) == 0 {
			continue
		}
		for _, place := range places {
			found[place]++
		}
		b, err := yaml.Marshal(obj)
		if err != nil {
			return nil, fmt.Errorf("make the manifest dual-stack: document %d: %w", i+1, err)
		}
		docs[i] = string(b)
	}
	var errs []error
	for _, place := range []string{hostContainer, agentContainer, cniConfigMap} {
		if n := found[place]; n != 1 {
			errs = append(errs, fmt.Errorf("make the manifest dual-stack: it has %s %d times, want once", place, n))
		}
	}
	return []byte(strings.Join(docs, separator)), errors.Join(errs...)
}

// withIPv6 changes an object, and names the places that it has changed.
func withIPv6(obj map[string]any) (places []string, err error) {
	if name, _, _ := unstructured.NestedString(obj, "metadata", "name"); obj["kind"] == "ConfigMap" && name == cniConfigMap {
		conf, _, err := unstructured.NestedString(obj, "data", cniKey)
		if err != nil {
			return nil, err
		}
		if conf, err = assignIPv6(conf); err != nil {
			return nil, fmt.Errorf("%s of ConfigMap %s: %w", cniKey, name, err)
		}
		return []string{cniConfigMap}, unstructured.SetNestedField(obj, conf, "data", cniKey)
	}
	for _, list := range []string{"initContainers", "containers"} {
		containers, _, err := unstructured.NestedFieldNoCopy(obj, "spec", "template", "spec", list)
		if err != nil {
			return nil, nil // another kind of object, with another spec
		}
		for container, variables := range variables6 {
			for _, c := range named(containers, container) {
				for _, v := range variables {
					setVariable(c, v[0], v[1])
				}
				places = append(places, container)
			}
		}
	}
	slices.Sort(places)
	return places, nil
}

// setVariable sets a variable of a container's environment, or adds it.
func setVariable(container map[string]any, name, value string) {
	env, _ := container["env"].([]any)
	if there := named(env, name); len(there) > 0 {
		for _, v := range there {
			delete(v, "valueFrom")
			v["value"] = value
		}
		return
	}
	container["env"] = append(env, map[string]any{"name": name, "value": value})
}

var (
	assignment = regexp.MustCompile(`("assign_ipv6"\s*:\s*)"?(true|false)"?`)
	ipamType   = regexp.MustCompile(`"type"\s*:\s*"(manx|calico)-ipam"`)
)

// assignIPv6 has the CNI configuration, which is JSON but for its placeholders, ask for
// addresses of both families.
func assignIPv6(conf string) (string, error) {
	if assignment.MatchString(conf) {
		return assignment.ReplaceAllString(conf, `$1"true"`), nil
	}
	if n := len(ipamType.FindAllString(conf, -1)); n != 1 {
		return "", fmt.Errorf(`%s matches %d times, want once: no place for "assign_ipv6"`, ipamType, n)
	}
	return ipamType.ReplaceAllString(conf, `$0, "assign_ipv4": "true", "assign_ipv6": "true"`), nil
}
