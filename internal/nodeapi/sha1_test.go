package nodeapi

import (
	"bytes"
	"crypto/sha1"
	"testing"
)

func TestSHA1(t *testing.T) {
	for n := range 300 { // every padding, up to several blocks
		msg := bytes.Repeat([]byte{byte(n), 'x', 0xff}, n)[:n]
		if got, want := sha1Sum(msg), sha1.Sum(msg); got != want {
			t.Fatalf("%d bytes: %x, want %x", n, got, want)
		}
	}
}
