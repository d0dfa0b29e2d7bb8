package agent

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/manx-cni/manx/cni-plugin/install"
	"github.com/manx-cni/manx/felix/state"
)

// maxNetworks bounds the networks whose keys are remembered: more than a node has.
const maxNetworks = 64

// keyReport is which keys of CNI configurations have no effect. A misspelt key cuts no
// pod off, and is told of as long as it is there: that of the node's own configuration by
// reading it, those of other networks, which Multus keeps elsewhere, by the last ADD.
type keyReport struct {
	mu       sync.Mutex
	file     string // of the node's configuration
	network  string // of the same
	ofFile   []string
	networks map[string][]string // of others, by name
}

// lookAtKeys reads the node's configuration.
func (c *cniConf) lookAtKeys(file string) {
	var network string
	var keys []string
	if file != "" {
		if text, err := os.ReadFile(filepath.Join(c.dir, file)); err == nil {
			network, keys = install.Unused(text)
		}
	}
	c.keys.mu.Lock()
	defer c.keys.mu.Unlock()
	if !slices.Equal(c.keys.ofFile, keys) {
		tellKeys(c.log, "file", "/etc/cni/net.d/"+file, keys)
	}
	c.keys.file, c.keys.network, c.keys.ofFile = file, network, keys
}

// unused takes in what an ADD says of its network.
func (c *cniConf) unused(network string, keys []string) {
	c.keys.mu.Lock()
	defer c.keys.mu.Unlock()
	if network == c.keys.network && c.keys.file != "" || slices.Equal(c.keys.networks[network], keys) {
		return
	}
	tellKeys(c.log, "network", network, keys)
	if c.keys.networks == nil {
		c.keys.networks = map[string][]string{}
	}
	delete(c.keys.networks, network)
	if len(keys) > 0 && len(c.keys.networks) < maxNetworks {
		c.keys.networks[network] = keys
	}
}

func tellKeys(log *slog.Logger, what, which string, keys []string) {
	if len(keys) == 0 {
		log.Info("every key of the CNI configuration has its effect", what, which)
		return
	}
	log.Warn("keys of the CNI configuration have no effect", what, which, "keys", keys)
}

// keyConditions are one for each configuration that has such keys.
func (c *cniConf) keyConditions() (out []state.Condition) {
	if c == nil { // not watched
		return nil
	}
	c.keys.mu.Lock()
	defer c.keys.mu.Unlock()
	add := func(subject string, keys []string) {
		out = append(out, state.Condition{Kind: state.CNIKeyWithoutEffect, Subject: subject, Message: strings.Join(keys, "; ")})
	}
	if len(c.keys.ofFile) > 0 {
		add("/etc/cni/net.d/"+c.keys.file, c.keys.ofFile)
	}
	for _, network := range slices.Sorted(maps.Keys(c.keys.networks)) {
		if network != c.keys.network || c.keys.file == "" {
			add("CNI network "+network, c.keys.networks[network])
		}
	}
	return out
}
