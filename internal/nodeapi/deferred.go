package nodeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/localsock"
)

// DeferredDir is where the plugin leaves the DELs that no agent answered. It is
// beside the socket: both are gone after a reboot, as the interfaces are.
func DeferredDir(socket string) string {
	return filepath.Join(filepath.Dir(socket), "deferred-del")
}

// Defer records a DEL to be replayed by the next agent: one file an interface of a
// container, written under a dot name and renamed, so that a reader never sees half of it.
func Defer(dir string, req DelRequest) error {
	if err := req.Validate(); err != nil {
		return err
	}
	raw, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode the deferred DEL of %s: %w", req.ContainerID, err)
	}
	if err := localsock.PrivateDir(dir); err != nil {
		return fmt.Errorf("record the deferred DEL of %s: %w", req.ContainerID, err)
	}
	tmp := filepath.Join(dir, "."+recordOf(req.Endpoint)+".tmp")
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("record the deferred DEL of %s: %w", req.ContainerID, err)
	}
	if err := os.Rename(tmp, deferredFile(dir, recordOf(req.Endpoint))); err != nil {
		return fmt.Errorf("record the deferred DEL of %s: %w", req.ContainerID, err)
	}
	return nil
}

// Undefer forgets the record of a DEL that was answered after all.
func Undefer(dir string, e Endpoint) error { return undefer(dir, recordOf(e)) }

func undefer(dir, record string) error {
	err := os.Remove(deferredFile(dir, record))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// recordOf names the record of an endpoint: the container's ID, and for other
// interfaces than eth0 their name too, behind a '~' that no ID has. A container has one
// interface of a name, whatever its network.
func recordOf(e Endpoint) string {
	if e.ID().Primary() {
		return e.ContainerID
	}
	return e.ContainerID + "~" + attachment.Escape(e.IfName)
}

func deferredFile(dir, record string) string { return filepath.Join(dir, record+".json") }

// ReplayDeferred hands every recorded DEL to h and forgets those that succeed;
// the others stay for the next call and are named in the error. A record that
// cannot be read as one is set aside as "<name>.corrupt".
//
// [Serve] does this by itself. Calling it before Serve as well is harmless.
func ReplayDeferred(ctx context.Context, dir string, h Handler) error {
	return replay(ctx, dir, h.Del)
}

func replay(ctx context.Context, dir string, del func(context.Context, DelRequest) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the deferred DELs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		record, isRecord := strings.CutSuffix(e.Name(), ".json")
		if !isRecord || strings.HasPrefix(record, ".") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := replayOne(ctx, dir, record, del); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// replayOne replays one record, if it is there. Before there was one for each
// interface, the last DEL of a container was recorded under its ID alone.
func replayOne(ctx context.Context, dir, record string, del func(context.Context, DelRequest) error) error {
	file := deferredFile(dir, record)
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the deferred DEL of %s: %w", record, err)
	}
	var req DelRequest
	err = json.Unmarshal(raw, &req)
	if err == nil {
		err = req.Validate()
	}
	if err == nil && recordOf(req.Endpoint) != record && req.ContainerID != record {
		err = fmt.Errorf("it names interface %s of container %q", req.IfName, req.ContainerID)
	}
	if err != nil {
		return fmt.Errorf("deferred DEL %s is unusable, set aside as .corrupt: %w", file, errors.Join(err, os.Rename(file, file+".corrupt")))
	}
	if err := del(ctx, req); err != nil {
		return fmt.Errorf("replay the deferred DEL of %s: %w", record, err)
	}
	return undefer(dir, record)
}
