package vm

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"strings"
	"testing"
)

// elfWithNote is an ELF file of one segment, a note.
func elfWithNote(name string, kind uint32) []byte {
	const headerSize, segmentSize = 64, 56
	var note bytes.Buffer
	for _, v := range []uint32{uint32(len(name) + 1), 8, kind} {
		_ = binary.Write(&note, binary.LittleEndian, v)
	}
	padded := make([]byte, (len(name)+4)/4*4)
	copy(padded, name)
	note.Write(append(padded, make([]byte, 8)...))

	b := make([]byte, headerSize+segmentSize)
	copy(b, "\x7fELF\x02\x01\x01") // 64 bits, little-endian, version 1
	le := binary.LittleEndian
	le.PutUint16(b[16:], 2)             // an executable
	le.PutUint16(b[18:], 62)            // of x86-64
	le.PutUint32(b[20:], 1)             // version
	le.PutUint64(b[32:], headerSize)    // where the segments are listed
	le.PutUint16(b[52:], headerSize)    // size of this header
	le.PutUint16(b[54:], segmentSize)   // of an entry of that list
	le.PutUint16(b[56:], 1)             // entries
	le.PutUint32(b[headerSize:], 4)     // a note
	le.PutUint64(b[headerSize+8:], 120) // which begins here
	le.PutUint64(b[headerSize+32:], uint64(note.Len()))
	return append(b, note.Bytes()...)
}

// bzImage has a setup of one sector, and payload after eight bytes of code.
func bzImage(payload []byte, size int) []byte {
	const codeSize = 8
	b := make([]byte, 1024+codeSize)
	le := binary.LittleEndian
	b[0x1f1] = 1
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f)
	le.PutUint32(b[0x248:], codeSize)
	le.PutUint32(b[0x24c:], uint32(len(payload)+4))
	return append(le.AppendUint32(append(b, payload...), uint32(size)), "what follows"...)
}

func xz(t *testing.T, b []byte) []byte {
	t.Helper()
	cmd := exec.Command("xz", "--check=crc32", "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestUnpackKernel(t *testing.T) {
	good, other, later := elfWithNote("Xen", 18), elfWithNote("Xen", 17), elfWithNote("GNU", 18)
	cut := bzImage(xz(t, good), len(good))
	old := bzImage(xz(t, good), len(good))
	old[0x207] = 1
	tests := []struct {
		name string
		in   []byte
		want string // in the error; "" is none
	}{
		{"good", bzImage(xz(t, good), len(good)), ""},
		{"empty", nil, "no bzImage"},
		{"no header", make([]byte, 4096), "no bzImage"},
		{"old protocol", old, "2.08"},
		{"cut short", cut[:1100], "of 1100 bytes"},
		{"unknown compression", bzImage([]byte("LZMA?"), 5), "4c 5a 4d 41 3f"},
		{"damaged", bzImage(xz(t, good)[:60], len(good)), "xz -dc"},
		{"another size", bzImage(xz(t, good), 7), "and 7 by its header"},
		{"no ELF file", bzImage(xz(t, make([]byte, 100)), 100), "bad magic"},
		{"another note", bzImage(xz(t, other), len(other)), "PVH"},
		{"another's note", bzImage(xz(t, later), len(later)), "PVH"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := unpackKernel(t.Context(), tt.in)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one with %q", err, tt.want)
				}
				return
			}
			if err != nil || !bytes.Equal(got, good) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
