package settings

import "strings"

// Nearest returns the name that text is probably a misspelling of: another case, or
// at most two letters away. It is empty when none is.
func Nearest(text string, names []string) (best string) {
	least := 3 // edits; more is another word
	for _, name := range names {
		if strings.EqualFold(text, name) {
			return name
		}
		if far := len(text) - len(name); far >= least || -far >= least {
			continue // so many letters too many or too few
		}
		if d := distance(text, name); d < least && d < len(name) {
			least, best = d, name
		}
	}
	return best
}

// distance is Levenshtein's, over bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
