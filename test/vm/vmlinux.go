package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/manx-cni/manx/test/lab/cachelock"
)

// Unpacked is the file of the kernel without its compression; see unpackedImage.
func (k Kernel) Unpacked() string { return filepath.Join(k.Dir, "boot/vmlinux-"+k.Version) }

// unpackedImage makes the file that Unpacked names, once. A guest that is emulated
// takes as long to unpack its kernel as for everything else up to its first program,
// and the host does it in a second. The kernel then starts at the entry that it has for
// Xen's PVH, because the usual one is in front of the part that unpacks.
func unpackedImage(ctx context.Context, k Kernel) (string, error) {
	if _, err := os.Stat(k.Unpacked()); err == nil {
		return k.Unpacked(), nil
	}
	unlock, err := cachelock.Take(ctx, filepath.Join(filepath.Dir(k.Dir), "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	packed, err := os.ReadFile(k.Image())
	if err != nil {
		return "", err
	}
	image, err := unpackKernel(ctx, packed)
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", k.Image(), err)
	}
	// One name for all runs: what one that was killed has left, the next one writes over.
	tmp := k.Unpacked() + ".new"
	if err := os.WriteFile(tmp, image, 0o644); err != nil {
		return "", fmt.Errorf("keep the unpacked kernel: %w", err)
	}
	if err := os.Rename(tmp, k.Unpacked()); err != nil {
		return "", fmt.Errorf("keep the unpacked kernel: %w", err)
	}
	return k.Unpacked(), nil
}

// unpackers are the forms of compression that Debian has used for kernels: how the
// data begin, and the program that reads them.
var unpackers = []struct{ magic, program, pkg string }{
	{"\xfd7zXZ\x00", "xz", "xz-utils"},
	{"\x28\xb5\x2f\xfd", "zstd", "zstd"},
}

// unpackKernel returns the ELF file in a bzImage.
func unpackKernel(ctx context.Context, packed []byte) ([]byte, error) {
	payload, size, err := kernelPayload(packed)
	if err != nil {
		return nil, err
	}
	for _, u := range unpackers {
		if !bytes.HasPrefix(payload, []byte(u.magic)) {
			continue
		}
		program, err := find(u.program)
		if err != nil {
			return nil, fmt.Errorf("%w; on Debian: apt-get install %s", err, u.pkg)
		}
		cmd := exec.CommandContext(ctx, program, "-dc")
		cmd.Stdin = bytes.NewReader(payload)
		image, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s -dc: %w", u.program, err)
		}
		if len(image) != size {
			return nil, fmt.Errorf("it has %d bytes, and %d by its header", len(image), size)
		}
		return image, checkPVH(image)
	}
	return nil, fmt.Errorf("its compression, which begins with % x, is not known", payload[:min(6, len(payload))])
}

// kernelPayload finds the compressed kernel in a bzImage, and the size that it is unpacked
// (the boot protocol from 2.08 on: Documentation/arch/x86/boot.rst in the kernel's source).
func kernelPayload(b []byte) (payload []byte, size int, err error) {
	const (
		setupSectors, magic, version = 0x1f1, 0x202, 0x206
		payloadOffset, payloadLength = 0x248, 0x24c
		headerEnd, sector, sizeBytes = 0x250, 512, 4
	)
	if len(b) < headerEnd || string(b[magic:magic+4]) != "HdrS" || binary.LittleEndian.Uint16(b[version:]) < 0x208 {
		return nil, 0, errors.New("it is no bzImage of boot protocol 2.08 or later")
	}
	start := (int64(b[setupSectors])+1)*sector + int64(binary.LittleEndian.Uint32(b[payloadOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(b[payloadLength:]))
	if end > int64(len(b)) || end-start < sizeBytes {
		return nil, 0, fmt.Errorf("its payload is from %d to %d, of %d bytes", start, end, len(b))
	}
	payload = b[start : end-sizeBytes]
	return payload, int(binary.LittleEndian.Uint32(b[end-sizeBytes:])), nil
}

// checkPVH reports a kernel without an entry for PVH: XEN_ELFNOTE_PHYS32_ENTRY in a note
// (include/xen/interface/elfnote.h in the kernel's source).
func checkPVH(image []byte) error {
	const entry = 18
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("read what was unpacked: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Errorf("read the kernel's notes: %w", err)
		}
		for len(notes) >= 12 {
			name, desc, kind := int64(f.ByteOrder.Uint32(notes)), int64(f.ByteOrder.Uint32(notes[4:])), f.ByteOrder.Uint32(notes[8:])
			end := 12 + (name+3)/4*4 + (desc+3)/4*4
			if end > int64(len(notes)) {
				break
			}
			if kind == entry && string(notes[12:12+name]) == "Xen\x00" {
				return nil
			}
			notes = notes[end:]
		}
	}
	return errors.New("the kernel has no entry for PVH (CONFIG_PVH)")
}
