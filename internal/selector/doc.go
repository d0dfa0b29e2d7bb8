// Package selector is Calico's label selector language, as the nodeSelector and
// namespaceSelector of a pool and the selectors of a BGPPeer use it.
//
//	all()   global()                everything
//	has(k)                          has the label k, whatever its value
//	k == 'v'                        has it with this value
//	k != 'v'                        does not: no such label, or another value
//	k in {'a', 'b'}                 has it with one of these values
//	k not in {'a', 'b'}             does not: no such label, or another value
//	k contains 's'   k starts with 's'   k ends with 's'
//	! && || ( )                     ! binds closest, then &&, then ||
//
// Strings stand in single or double quotes and have no escapes: one that holds a
// single quote stands in double quotes. Label keys are letters, digits and
// "_ . / -", without quotes. The empty selector means all(), as does the zero
// Selector.
//
// The package is pure: a Selector is an immutable value that any goroutine may
// use. A selector comes from whoever may write the object that holds it, so its
// length and nesting are bounded.
package selector
