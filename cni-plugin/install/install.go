package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/manx-cni/manx/cni-plugin/confdir"
)

// Binaries are the plugins of the image: Manx's own under both names, and what
// its configuration chains.
var Binaries = []string{"manx", "manx-ipam", "portmap", "loopback"}

// own are those that nobody else uses; uninstalling removes only them.
var own = []string{"manx", "manx-ipam"}

// Config says what goes where. [FromEnvironment] fills it as the init container
// has it.
type Config struct {
	BinSource string // the image's plugins
	BinTarget string // the node's plugin directory
	NetTarget string // the node's configuration directory
	ConfName  string // file name of the configuration, *.conflist

	NetworkConfig     string   // the configuration, with placeholders
	NetworkConfigFile string   // or a file with it, which wins
	Skip              []string // SKIP_CNI_BINARIES: plugins that are not installed
	KeepExisting      bool     // UPDATE_CNI_BINARIES=false: leave plugins that are there alone
	Exclusive         bool     // CNI_EXCLUSIVE=true: move configurations that come before ours out of the way

	NodeName, MTU, LogLevel, DatastoreType string // values of placeholders

	bad []string // what was wrong in the environment
}

// FromEnvironment reads the variables that Calico's installer has. What is wrong
// with them is reported by [Run].
func FromEnvironment(environ []string) Config {
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = strings.TrimSpace(v)
		}
	}
	or := func(fallback string, names ...string) string {
		for _, n := range names {
			if env[n] != "" {
				return env[n]
			}
		}
		return fallback
	}
	c := Config{
		BinSource: "/opt/cni/bin", BinTarget: "/host/opt/cni/bin", NetTarget: "/host/etc/cni/net.d",
		ConfName:          or("10-manx.conflist", "CNI_CONF_NAME"),
		NetworkConfig:     env["CNI_NETWORK_CONFIG"],
		NetworkConfigFile: env["CNI_NETWORK_CONFIG_FILE"],
		NodeName:          or("", "KUBERNETES_NODE_NAME", "NODENAME"),
		MTU:               or("0", "CNI_MTU"),
		LogLevel:          or("info", "LOG_LEVEL"),
		DatastoreType:     or("kubernetes", "DATASTORE_TYPE"),
	}
	for name := range strings.SplitSeq(env["SKIP_CNI_BINARIES"], ",") {
		if name = strings.TrimSpace(name); name != "" {
			c.Skip = append(c.Skip, name)
		}
	}
	yes := func(preset, name string) bool {
		switch text := or(preset, name); strings.ToLower(text) {
		case "true":
			return true
		case "false":
		default:
			c.bad = append(c.bad, fmt.Sprintf("%s is %q, want true or false", name, text))
		}
		return false
	}
	c.KeepExisting = !yes("true", "UPDATE_CNI_BINARIES")
	c.Exclusive = yes("false", "CNI_EXCLUSIVE")
	if base := filepath.Base(c.ConfName); base != c.ConfName || filepath.Ext(base) != ".conflist" || strings.HasPrefix(base, ".") {
		c.bad = append(c.bad, fmt.Sprintf("CNI_CONF_NAME is %q, want a file name that ends in .conflist", c.ConfName))
	}
	return c
}

// Run installs. It checks everything that can be checked before it writes
// anything; a second run changes nothing.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	conflist, types, err := c.render()
	if err != nil {
		return err
	}
	for _, dir := range []string{c.BinTarget, c.NetTarget} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("install the CNI plugin: %w", err)
		}
	}
	for _, name := range Binaries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if slices.Contains(c.Skip, name) {
			log.Info("CNI plugin skipped", "name", name, "setting", "SKIP_CNI_BINARIES")
			continue
		}
		if err := c.installBinary(name, log); err != nil {
			return err
		}
	}
	if _, unused := Unused(conflist); len(unused) > 0 {
		log.Warn("keys of the CNI configuration have no effect", "keys", unused)
	}
	for _, name := range types {
		if _, err := os.Stat(filepath.Join(c.BinTarget, name)); err != nil {
			log.Warn("the CNI configuration names a plugin that is not installed: pods will not start", "plugin", name, "error", err)
		}
	}
	conflist, err = c.agree(ctx, conflist, types, log)
	if err != nil {
		return fmt.Errorf("choose the version of the CNI configuration: %w", err)
	}
	if err := c.installConfig(conflist, log); err != nil {
		return err
	}
	return c.others(log)
}

func (c Config) installBinary(name string, log *slog.Logger) error {
	content, err := os.ReadFile(filepath.Join(c.BinSource, name))
	if err != nil {
		return fmt.Errorf("install CNI plugin %s: %w; the image should have it, or SKIP_CNI_BINARIES name it", name, err)
	}
	target := filepath.Join(c.BinTarget, name)
	if c.KeepExisting {
		if _, err := os.Stat(target); err == nil {
			log.Info("CNI plugin left as it is", "path", target, "setting", "UPDATE_CNI_BINARIES")
			return nil
		}
	}
	changed, err := replace(target, content, 0o755)
	if err != nil {
		return fmt.Errorf("install CNI plugin %s: %w", name, err)
	}
	if changed {
		log.Info("CNI plugin installed", "path", target)
	}
	return nil
}

func (c Config) installConfig(conflist []byte, log *slog.Logger) error {
	target := filepath.Join(c.NetTarget, c.ConfName)
	changed, err := replace(target, conflist, 0o600)
	if err != nil {
		return fmt.Errorf("install the CNI configuration: %w", err)
	}
	if changed {
		log.Info("CNI configuration installed", "path", target)
	}
	return nil
}

// replace makes target have the content and mode, by rename, unless it has.
func replace(target string, content []byte, mode os.FileMode) (changed bool, err error) {
	if err := sweep(target); err != nil {
		return false, err
	}
	if info, err := os.Lstat(target); err == nil && info.Mode() == mode && info.Size() == int64(len(content)) {
		if have, err := os.ReadFile(target); err == nil && bytes.Equal(have, content) {
			return false, nil
		}
	}
	f, err := renameio.NewPendingFile(target, renameio.WithTempDir(filepath.Dir(target)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return false, err
	}
	defer f.Cleanup() // nothing, once the file is in place
	if _, err := f.Write(content); err != nil {
		return false, err
	}
	return true, f.CloseAtomicallyReplace()
}

// sweep removes temporary files of target that a killed run left.
func sweep(target string) error {
	leftovers, err := filepath.Glob(filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+"[0-9]*"))
	if err != nil {
		return err
	}
	for _, f := range leftovers {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// others names the configurations that container runtimes take instead of this one,
// or moves them out of the way: now that this one is there.
func (c Config) others(log *slog.Logger) error {
	view, err := confdir.Look(c.NetTarget)
	if err != nil {
		return fmt.Errorf("look for other CNI configurations: %w", err)
	}
	var before []string
	for _, f := range view.Before {
		before = append(before, f.Name)
	}
	if len(before) == 0 {
		return nil
	}
	if !c.Exclusive {
		log.Warn("other CNI configurations come before Manx's by name, so the container runtime uses the first of them; "+
			"remove them when Manx is to connect pods, or set CNI_EXCLUSIVE=true",
			"files", before, "directory", c.NetTarget, "ours", c.ConfName)
		return nil
	}
	for _, name := range before {
		if err := confdir.MoveAway(c.NetTarget, name); err != nil {
			return fmt.Errorf("move a CNI configuration that comes before Manx's out of the way (CNI_EXCLUSIVE=true): %w", err)
		}
	}
	log.Info("other CNI configurations, which came before Manx's by name, moved out of the way",
		"files", before, "suffix", confdir.Suffix, "directory", c.NetTarget, "setting", "CNI_EXCLUSIVE")
	return nil
}

// Uninstall removes the configuration, so that no new pod is started with Manx, puts
// back what was moved out of its way, and removes the plugins that are Manx's own. What is absent is a success; a file under
// the configuration's name that is not Manx's stays.
func Uninstall(c Config, log *slog.Logger) error {
	target := filepath.Join(c.NetTarget, c.ConfName)
	content, err := os.ReadFile(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("uninstall the CNI configuration: %w", err)
	case !startsWithManx(content):
		log.Warn("a CNI configuration under Manx's name is not Manx's; left alone", "path", target)
	default:
		if err := os.Remove(target); err != nil {
			return fmt.Errorf("uninstall the CNI configuration: %w", err)
		}
		log.Info("CNI configuration removed", "path", target)
	}
	back, err := confdir.MoveBack(c.NetTarget)
	if len(back) > 0 {
		log.Info("CNI configurations that had been moved out of the way are back", "directory", c.NetTarget, "files", back)
	}
	if err != nil {
		log.Warn("a CNI configuration that had been moved out of the way stays there", "directory", c.NetTarget, "error", err)
	}
	for _, name := range own {
		path := filepath.Join(c.BinTarget, name)
		switch err := os.Remove(path); {
		case err == nil:
			log.Info("CNI plugin removed", "path", path)
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("uninstall CNI plugin %s: %w", name, err)
		}
	}
	return nil
}
