package controllers

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/internal/datastore"
)

// servicesEvery is how often the ranges of services are read.
const servicesEvery = 10 * time.Minute

// serviceRanges reads the ranges of services from time to time, for the one goroutine
// that judges pools. A nil one knows of none.
type serviceRanges struct {
	kube kubernetes.Interface
	log  *slog.Logger

	read time.Time // zero: never
	last []netip.Prefix
}

// ranges returns what was read last. What cannot be read stays as it was.
func (s *serviceRanges) ranges(ctx context.Context, now time.Time) []netip.Prefix {
	if s == nil || !s.read.IsZero() && now.Sub(s.read) < servicesEvery {
		return s.known()
	}
	s.read = now
	ranges, err := datastore.ServiceRanges(ctx, s.kube)
	if err != nil {
		s.log.Debug("ranges of services not read, will be tried again", "err", err)
		s.read = now.Add(time.Minute - servicesEvery)
		return s.last
	}
	s.last = ranges
	return ranges
}

func (s *serviceRanges) known() []netip.Prefix {
	if s == nil {
		return nil
	}
	return s.last
}
