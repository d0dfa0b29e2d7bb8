package v1

import (
	"errors"
	"strconv"
	"strings"
)

// ASNumberForms says what ParseASNumber accepts.
const ASNumberForms = "1 to 4294967295, or asdot such as 1.10"

// ParseASNumber reads an AS number as asplain or asdot (RFC 5396 §2). Zero is
// reserved (RFC 7607) and refused.
func ParseASNumber(s string) (uint32, error) {
	bad := errors.New("not an AS number; want " + ASNumberForms)
	high, low, dotted := strings.Cut(s, ".")
	if !dotted {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n == 0 {
			return 0, bad
		}
		return uint32(n), nil
	}
	h, errHigh := strconv.ParseUint(high, 10, 16)
	l, errLow := strconv.ParseUint(low, 10, 16)
	if errHigh != nil || errLow != nil || h == 0 && l == 0 {
		return 0, bad
	}
	return uint32(h)<<16 | uint32(l), nil
}
