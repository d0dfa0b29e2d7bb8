package vm

import (
	"bytes"
	"fmt"
)

// archive is a cpio archive in the "newc" form that the kernel unpacks as initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst in its source).
type archive struct {
	buf   bytes.Buffer
	inode int
}

// File types of a cpio header, as in stat(2).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
)

func (a *archive) dir(name string) { a.entry(name, cpioDir|0o755, nil) }

func (a *archive) file(name string, perm int, content []byte) { a.entry(name, cpioFile|perm, content) }

// bytes ends the archive.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}

func (a *archive) entry(name string, mode int, content []byte) {
	a.inode++
	const links, zero = 1, 0
	fields := []int{
		a.inode, mode, zero, zero, links, zero, len(content),
		zero, zero, zero, zero, len(name) + 1, zero,
	}
	a.buf.WriteString("070701")
	for _, f := range fields {
		fmt.Fprintf(&a.buf, "%08x", f)
	}
	a.buf.WriteString(name + "\x00")
	a.pad()
	a.buf.Write(content)
	a.pad()
}

// pad fills up to a multiple of four bytes: names and contents end at one.
func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}
