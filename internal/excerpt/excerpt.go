// Package excerpt bounds texts that others have written before they go on into an
// error, a log line, an Event, a condition or a status page. An annotation may have
// 256 KiB, and what one node says of itself is read by the agents of all: without a
// bound, one value is as many long log lines as there are nodes, and Events that the API
// server refuses.
//
// What is left out is the middle, because a message begins with what it is about and
// ends with what to do:
//
//	annotation projectcalico.org/IPv4Address="aaaaaaaa … [199,940 bytes left out] … aaaa": want an IPv4 unicast address
//
// It is used at both ends: Value where a value of others is put into an error, so that
// nothing long is kept in memory, and Of where texts leave the process.
package excerpt

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Bounds, in bytes.
const (
	// ValueMax is for a value in a message: longer than any that could be right.
	ValueMax = 128
	// MessageMax is for a message to a person: a reason, a condition, an error. It is
	// what the API server takes as the note of an Event (events.k8s.io/v1).
	MessageMax = 1024
	// LogMax is for one attribute of a log line, which may list several reasons.
	LogMax = 4096
)

// Value is s with at most ValueMax bytes.
func Value[T ~string](s T) string { return Of(string(s), ValueMax) }

// Message is s with at most MessageMax bytes.
func Message(s string) string { return Of(s, MessageMax) }

// Of returns s when it has at most limit bytes, and otherwise as much of its beginning
// and its end as fits beside a word of how much is missing. It cuts no character of
// UTF-8. limit is at least 64.
func Of(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	limit = max(limit, 64)
	room := limit - len(gap(len(s)))
	head, tail := room/2, len(s)-(room-room/2)
	for head > 0 && !utf8.RuneStart(s[head]) {
		head--
	}
	for tail < len(s) && !utf8.RuneStart(s[tail]) {
		tail++
	}
	return s[:head] + gap(tail-head) + s[tail:]
}

// gap says how many bytes are missing.
func gap(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return fmt.Sprintf(" … [%s bytes left out] … ", digits)
}

// Name bounds the name of an API object that is made from another's: a DNS subdomain
// (RFC 1123) of at most 253 bytes, with suffix at its end.
func Name(name, suffix string) string {
	const longest = 253
	if len(name)+len(suffix) <= longest {
		return name + suffix
	}
	name = name[:longest-len(suffix)]
	for name != "" && (name[len(name)-1] == '.' || name[len(name)-1] == '-') {
		name = name[:len(name)-1]
	}
	return name + suffix
}
