package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Community is a community of RFC 1997 (two numbers of 16 bits) or, with Large set, of
// RFC 8092 (three of 32 bits).
type Community struct {
	Global         uint32 // mostly an AS number
	Local1, Local2 uint32
	Large          bool
}

// ParseCommunity reads 64512:100 and 64512:100:1. 0:0, the zero Community, is reserved by
// RFC 1997 and refused.
func ParseCommunity(text string) (Community, error) {
	parts := strings.Split(text, ":")
	bits := 16
	if len(parts) == 3 {
		bits = 32
	}
	numbers := make([]uint32, 3)
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, bits)
		if err != nil || len(parts) < 2 || len(parts) > 3 {
			return Community{}, fmt.Errorf("community %q is neither aa:nn with numbers up to 65535 (RFC 1997) "+
				"nor aa:nn:mm with numbers up to 4294967295 (RFC 8092)", text)
		}
		numbers[i] = uint32(n)
	}
	if len(parts) == 2 && numbers[0]|numbers[1] == 0 {
		return Community{}, errors.New("community 0:0 is reserved (RFC 1997): want another one")
	}
	return Community{Global: numbers[0], Local1: numbers[1], Local2: numbers[2], Large: len(parts) == 3}, nil
}

// Compare orders communities.
func (c Community) Compare(o Community) int {
	large := 0
	if c.Large != o.Large {
		large = 1
		if o.Large {
			large = -1
		}
	}
	return cmp.Or(large, cmp.Compare(c.Global, o.Global), cmp.Compare(c.Local1, o.Local1), cmp.Compare(c.Local2, o.Local2))
}

// String is what ParseCommunity reads.
func (c Community) String() string {
	if c.Large {
		return fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2)
	}
	return fmt.Sprintf("%d:%d", c.Global, c.Local1)
}

// MarshalText implements encoding.TextMarshaler.
func (c Community) MarshalText() ([]byte, error) {
	if c == (Community{}) {
		return nil, nil
	}
	return []byte(c.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler. The empty text is no community.
func (c *Community) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*c = Community{}
		return nil
	}
	*c, err = ParseCommunity(string(text))
	return err
}
