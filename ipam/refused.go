package ipam

import (
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// maxRefusals is how many candidates are passed over because the API server refuses
// them, until it is likely to refuse all.
const maxRefusals = 3

// refusals counts them.
type refusals int

// passes reports whether a failure is one to pass over.
func (n *refusals) passes(err error) bool {
	if !refused(err) || *n == maxRefusals {
		return false
	}
	*n++
	return true
}

// refused reports whether the API server has answered and said no to this one request: a
// policy, a webhook or a rule of the schema. It says nothing of other objects, so that
// a loop over many goes on with the next. A server that is away, busy or failing
// is another matter, and so are credentials that are not accepted at all.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch status.Status().Code {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusUnprocessableEntity:
		return true
	}
	return false
}
