package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/family"
)

// kind is a type of value: how it is called, what is accepted, how it is read.
// A parser gets "" only for a setting whose default is empty. It may return a
// note about a value that is accepted but probably not meant.
type kind[T any] struct {
	name    string
	accepts string // completes "want …"
	parse   func(string) (v T, note string, err error)
}

// plain makes a kind of a parser that has no notes.
func plain[T any](name, accepts string, parse func(string) (T, error)) kind[T] {
	return kind[T]{name, accepts, func(s string) (T, string, error) {
		v, err := parse(s)
		return v, "", err
	}}
}

func isTrue(s string) bool { return strings.EqualFold(s, "true") }

// Calico reads booleans in three ways; each setting keeps its own.
var (
	// looseBool is false for the words of falsity and true for all else.
	looseBool = kind[bool]{"bool", "false, 0, no, n or f for false, true for true; any case", func(s string) (bool, string, error) {
		switch strings.ToLower(s) {
		case "false", "0", "no", "n", "f":
			return false, "", nil
		case "true", "1", "yes", "y", "t":
			return true, "", nil
		}
		return true, "read as true, as Calico does; want true or false", nil
	}}
	// onlyTrue is true for "true" in any case.
	onlyTrue = kind[bool]{"bool", "true in any case; anything else is false", func(s string) (bool, string, error) {
		return isTrue(s), noteUnlessFalse(s, isTrue(s)), nil
	}}
	// exactlyTrue is true for "true" in small letters.
	exactlyTrue = kind[bool]{"bool", "true; anything else is false", func(s string) (bool, string, error) {
		return s == "true", noteUnlessFalse(s, s == "true"), nil
	}}
	// felixBool accepts the words of truth and of falsity.
	felixBool = plain("bool", "true, 1, yes, y, t, false, 0, no, n or f; any case", func(s string) (bool, error) {
		switch strings.ToLower(s) {
		case "true", "1", "yes", "y", "t":
			return true, nil
		case "false", "0", "no", "n", "f":
			return false, nil
		}
		return false, errors.New("not a boolean")
	})
)

// maybeBool is a felixBool that may be left open.
var maybeBool = plain("bool", "empty, or "+felixBool.accepts, func(s string) (*bool, error) {
	if s == "" {
		return nil, nil
	}
	v, _, err := felixBool.parse(s)
	return &v, err
})

func noteUnlessFalse(s string, value bool) string {
	if value || slices.Contains([]string{"", "false", "0", "no", "n", "f"}, strings.ToLower(s)) {
		return ""
	}
	return "read as false, as Calico does; want true or false"
}

var text = plain("string", "any text", func(s string) (string, error) { return s, nil })

var filePath = plain("path", "an absolute path", func(s string) (string, error) {
	if s != "" && !strings.HasPrefix(s, "/") {
		return "", errors.New("not an absolute path")
	}
	return s, nil
})

var nodeName = plain("name", "the name of the Kubernetes Node, such as node-1", func(s string) (string, error) {
	if s != "" && len(validation.IsDNS1123Subdomain(s)) > 0 {
		return "", errors.New("not a name that a Node can have")
	}
	return s, nil
})

// choice accepts a fixed set of words in any case. words pairs each accepted
// word with its meaning; the first word of a meaning is the one shown.
func choice[T ~string](words ...string) kind[T] {
	meaning := map[string]T{}
	var shown []string
	for i := 0; i < len(words); i += 2 {
		meaning[strings.ToLower(words[i])] = T(words[i+1])
		shown = append(shown, words[i])
	}
	accepts := strings.Join(shown[:len(shown)-1], ", ") + " or " + shown[len(shown)-1]
	return plain("choice", accepts+"; any case", func(s string) (T, error) {
		v, ok := meaning[strings.ToLower(s)]
		if !ok {
			return "", errors.New("not one of the accepted words")
		}
		return v, nil
	})
}

var encapMode = choice[v1.EncapMode]("Always", "Always", "CrossSubnet",
	"CrossSubnet", "Cross-Subnet", "CrossSubnet", "Never", "Never", "Off", "Never")

var address = plain("address", autodetect.AddressForms, autodetect.ParseAddress)

var address6 = plain("address", autodetect.AddressForms6, autodetect.ParseAddress6)

var method = plain("method", autodetect.MethodForms, autodetect.ParseMethod)

var method6 = plain("method", autodetect.MethodForms, autodetect.ParseMethod6)

var asNumber = plain("AS number", v1.ASNumberForms, ParseAS)

// ParseAS reads an AS number as asplain or asdot (RFC 5396 §2). Empty is 0, which
// stands for the cluster's AS.
func ParseAS(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	as, err := v1.ParseASNumber(s)
	if err != nil {
		return 0, errors.New("not an AS number") // the setting's message says what is accepted
	}
	return as, nil
}

var routerID = plain("router id", "empty, hash, or an IPv4 address such as 192.0.2.1", func(s string) (RouterID, error) {
	switch s {
	case "":
		return RouterID{}, nil
	case "hash":
		return RouterID{Hash: true}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return RouterID{}, errors.New("not a router id")
	}
	return RouterID{Literal: a}, nil
})

// poolRange is the value of CALICO_IPV4POOL_CIDR or CALICO_IPV6POOL_CIDR.
type poolRange struct {
	cidr netip.Prefix
	none bool
}

var (
	poolCIDR = rangeOf(family.IPv4, `e.g. 10.244.0.0/16, or "none"`, "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
	// ::/8 is the IETF's (RFC 4291 §2.4): loopback, mapped and translated addresses.
	poolCIDR6 = rangeOf(family.IPv6, `e.g. fd00:10:244::/48, or "none"`, "::/8", "fe80::/10", "ff00::/8")
)

// rangeOf is the kind of a pool's range, of one family and outside the reserved ranges.
func rangeOf(family family.Family, accepts string, reserved ...string) kind[poolRange] {
	return kind[poolRange]{"CIDR", accepts, func(s string) (poolRange, string, error) {
		if s == "" || s == "none" {
			return poolRange{none: s == "none"}, "", nil
		}
		p, err := netip.ParsePrefix(s)
		if err != nil || !family.Has(p.Addr()) {
			return poolRange{}, "", fmt.Errorf("not an %s CIDR", family)
		}
		for _, r := range reserved {
			if p.Overlaps(netip.MustParsePrefix(r)) {
				return poolRange{}, "", fmt.Errorf("overlaps %s, whose addresses cannot be given to pods", r)
			}
		}
		if p != p.Masked() {
			return poolRange{cidr: p.Masked()}, fmt.Sprintf("has host bits set; read as %s", p.Masked()), nil
		}
		return poolRange{cidr: p}, "", nil
	}}
}

func integer[T ~int | ~uint16](name, accepts string, lo, hi T, also ...T) kind[T] {
	return plain(name, accepts, func(s string) (T, error) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, errors.New("not a number")
		}
		if (n < int(lo) || n > int(hi)) && (n < 0 || !slices.Contains(also, T(n))) {
			return 0, errors.New("out of range")
		}
		return T(n), nil
	})
}

var (
	blockSize  = integer("prefix length", "20 to 32", 20, 32)
	blockSize6 = integer("prefix length", "116 to 128", 116, 128)
	port       = integer[uint16]("port", "1 to 65535", 1, 65535)
	// 576 is what every IPv4 host takes (RFC 791 §3.1); the CNI plugin and pod-network
	// refuse less. 65535 is the largest packet.
	mtu = integer("bytes", "0, or 576 to 65535", 576, 65535, 0)
)

var host = plain("host", "localhost, a host name, or an IP address; 0.0.0.0 for every address", func(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, nil
	}
	if len(validation.IsDNS1123Subdomain(strings.ToLower(s))) > 0 {
		return "", errors.New("neither a host name nor an IP address")
	}
	return s, nil
})

var duration = plain("duration", "a duration such as 60s or 5m; 0 for never", func(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("not a duration")
	}
	if d < 0 || d > 0 && d < time.Second {
		return 0, errors.New("shorter than a second")
	}
	return d, nil
})

var seconds = plain("seconds", "a number of seconds such as 90; 0 for never", func(s string) (time.Duration, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 1e6 {
		return 0, errors.New("not a number of seconds up to 1000000")
	}
	return time.Duration(f * float64(time.Second)), nil
})

// Levels outside slog's own names: felix's TRACE and FATAL.
const (
	levelTrace = slog.LevelDebug - 4
	levelFatal = slog.LevelError + 4
)

var logLevel = plain("level", "Trace, Debug, Info, Warning, Error or Fatal; any case", func(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "trace":
		return levelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warning", "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "fatal", "critical":
		return levelFatal, nil
	}
	return 0, errors.New("not a log level")
})
