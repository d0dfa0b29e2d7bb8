// Package nearest guesses the name that a misspelt one stands for: of a command, an
// environment variable, a field, a key of a configuration. It is a leaf, linked into the
// CNI plugin.
package nearest

import "strings"

// Name returns the name of names that word is probably a misspelling or the beginning
// of: the same but for case and separators, or few letters away; or an empty string.
func Name(word string, names []string) (best string) {
	if word == "" {
		return ""
	}
	low := squeeze(word)
	least := min(3, 1+(len(word)+1)/3) // edits; as many as that make another word
	for _, n := range names {
		name := squeeze(n)
		if far := len(low) - len(name); far >= least || -far >= least {
			continue // so many letters too many or too few
		}
		if d := distance(low, name); d < least {
			least, best = d, n
		}
	}
	if best != "" {
		return best
	}
	for _, n := range names {
		if strings.HasPrefix(squeeze(n), low) {
			return n
		}
	}
	return ""
}

// squeeze takes out what separates words: assignIpv4 is assign_ipv4.
func squeeze(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance is Levenshtein's, over bytes; two neighbours that have changed places count
// as one edit.
func distance(a, b string) int {
	var before []int // the row before the last one
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
