package install

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
)

// baseVersion is what every runtime and every plugin in use speaks. From gcVersion on a
// runtime sends GC and STATUS.
const (
	baseVersion = "1.0.0"
	gcVersion   = "1.1.0"
)

// askTimeout bounds the question to one plugin.
const askTimeout = 10 * time.Second

// agree leaves in a configuration list the versions that all of its plugins speak: a
// runtime that speaks one more takes the newest of the list for all of them, and one
// plugin that does not have it keeps every pod from starting. Every plugin is asked by
// the verb VERSION, as it is installed. "cniVersion" is for runtimes that do not know
// "cniVersions", which came with version 1.1.0.
func (c Config) agree(ctx context.Context, conflist []byte, types []string, log *slog.Logger) ([]byte, error) {
	var list pluginList
	if err := json.Unmarshal(conflist, &list); err != nil {
		return nil, err
	}
	offered := list.versions()
	if !newer(offered[len(offered)-1], baseVersion) {
		return conflist, nil
	}
	agreed := slices.Clone(offered)
	slices.Sort(types)
	for _, name := range slices.Compact(types) {
		speaks, why := c.speaks(ctx, name)
		lacks := slices.DeleteFunc(slices.Clone(agreed), func(v string) bool { return slices.Contains(speaks, v) })
		if len(lacks) == 0 {
			continue
		}
		agreed = slices.DeleteFunc(agreed, func(v string) bool { return slices.Contains(lacks, v) })
		log.Warn("a plugin of the CNI configuration does not speak a version that it offers; "+
			"the configuration goes without, and below "+gcVersion+" the container runtime sends no GC and no STATUS",
			"plugin", name, "lacks", lacks, "speaks", speaks, "why", why)
	}
	if slices.Equal(agreed, offered) {
		return conflist, nil
	}
	if len(agreed) == 0 {
		agreed = []string{baseVersion}
	}
	base := list.CNIVersion
	if !slices.Contains(agreed, base) {
		base = agreed[len(agreed)-1]
	}
	return rewrite(conflist, base, agreed)
}

// speaks asks one plugin for the versions that it has. One that cannot be asked, for
// want of a library perhaps, is taken to have what plugins have had for years.
func (c Config) speaks(ctx context.Context, name string) (versions []string, why string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := invoke.GetVersionInfo(ctx, filepath.Join(c.BinTarget, name), nil)
	if err != nil {
		return slices.DeleteFunc(slices.Clone(specVersions), func(v string) bool { return newer(v, baseVersion) }),
			fmt.Sprintf("it did not answer VERSION: %v", err)
	}
	return info.SupportedVersions(), "it says so"
}

// versions are those that the list offers, the oldest first; never none once the list
// is validated.
func (l pluginList) versions() []string {
	out := append(slices.Clone(l.CNIVersions), l.CNIVersion)
	slices.SortFunc(out, func(a, b string) int {
		switch {
		case newer(a, b):
			return 1
		case newer(b, a):
			return -1
		}
		return 0
	})
	return slices.Compact(out)
}

// newer compares two of specVersions.
func newer(a, b string) bool {
	gt, err := version.GreaterThan(a, b)
	return err == nil && gt
}

// rewrite puts versions into a list, and leaves the rest as it is.
func rewrite(conflist []byte, base string, versions []string) ([]byte, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(conflist, &keys); err != nil {
		return nil, err
	}
	var err error
	if keys["cniVersion"], err = json.Marshal(base); err != nil {
		return nil, err
	}
	delete(keys, "cniVersions")
	if len(versions) > 1 {
		if keys["cniVersions"], err = json.Marshal(versions); err != nil {
			return nil, err
		}
	}
	out, err := json.MarshalIndent(keys, "", "  ")
	return append(out, '\n'), err
}
