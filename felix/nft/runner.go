package nft

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"sigs.k8s.io/knftables"

	"github.com/manx-cni/manx/internal/family"
)

// Runner is what the driver needs of nft(8).
type Runner interface {
	NewTransaction() *knftables.Transaction
	// Run applies a transaction as a whole or not at all.
	Run(ctx context.Context, tx *knftables.Transaction) error
	// ListTable prints our table as JSON; nil without an error when there is none.
	ListTable(ctx context.Context) ([]byte, error)
	// ListRules is ListTable without the sets' elements, which are the most of it.
	ListRules(ctx context.Context) ([]byte, error)
	// ListChains prints all chains of all tables as JSON.
	ListChains(ctx context.Context) ([]byte, error)
	// Version is what nft --version says.
	Version() string
}

// NewRunner finds nft(8) and tries, without changing anything, whether it is
// new enough (1.0.1) and permitted, and knows the family.
func NewRunner(f family.Family) (Runner, error) {
	iface, err := knftables.New(nameOf(f), TableName)
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, err
	}
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("nft --version: %w", err)
	}
	return &command{Interface: iface, family: f, path: path, version: strings.TrimSpace(string(version))}, nil
}

// command runs the nft program.
type command struct {
	knftables.Interface
	family        family.Family
	path, version string
}

func (c *command) Version() string { return c.version }

func (c *command) ListTable(ctx context.Context) ([]byte, error) {
	return c.listTable(ctx)
}

func (c *command) ListRules(ctx context.Context) ([]byte, error) {
	return c.listTable(ctx, "-t")
}

func (c *command) listTable(ctx context.Context, options ...string) ([]byte, error) {
	out, err := c.list(ctx, append(options, "list", "table", string(nameOf(c.family)), TableName)...)
	if err != nil && strings.Contains(err.Error(), "No such file or directory") {
		return nil, nil
	}
	return out, err
}

func (c *command) ListChains(ctx context.Context) ([]byte, error) {
	return c.list(ctx, "list", "chains")
}

// list numbers priorities (-y), which nft otherwise may print by name.
func (c *command) list(ctx context.Context, args ...string) ([]byte, error) {
	args = append([]string{"-j", "-y"}, args...)
	out, err := exec.CommandContext(ctx, c.path, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("nft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("nft %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}
