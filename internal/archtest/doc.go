// Package archtest holds the rules of how the module is built up, as tests:
// which package may import which, that every package says what it is for, and
// that no file grows out of hand. It contains no code of the product.
package archtest
