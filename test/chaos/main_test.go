//go:build cluster

package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

// envHelper makes this binary a helper: an agent or the controllers.
const (
	envHelper      = "MANX_TEST_CHAOS_HELPER"
	roleAgent      = "agent"
	roleController = "controllers"
)

// The settings that doc.go describes.
const (
	envDuration = "MANX_CHAOS_DURATION"
	envSeed     = "MANX_CHAOS_SEED"
	envVerbose  = "MANX_CHAOS_VERBOSE"
)

// helperLimit is when a helper ends whatever happens.
const helperLimit = 2 * time.Hour

func TestMain(m *testing.M) {
	role := os.Getenv(envHelper)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := help(role); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// help runs a helper until its input ends.
func help(role string) error {
	in := json.NewDecoder(os.Stdin)
	var s spec
	if err := in.Decode(&s); err != nil {
		return fmt.Errorf("read the spec: %w", err)
	}
	log := slog.New(slog.DiscardHandler)
	klog.SetSlogLogger(log) // what client-go has to say of an API server that is away
	if os.Getenv(envVerbose) != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("role", role, "node", s.Node)
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperLimit)
	defer cancel()
	if role == roleAgent {
		return runAgent(ctx, s, in, log)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return runControllers(ctx, s, log)
}
