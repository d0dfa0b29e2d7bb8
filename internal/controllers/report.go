package controllers

import (
	"log/slog"

	"k8s.io/client-go/rest"

	"github.com/manx-cni/manx/internal/settingsreport"
)

// newReport prepares what tells users of settings without effect. It has clients of its
// own: a break in what it watches says nothing of pods and addresses.
func newReport(cfg *rest.Config, w *watch, instance string, log *slog.Logger) (*settingsreport.Reporter, error) {
	c, err := settingsreport.FromREST(cfg, settingsreport.Config{Locked: w.locked, Instance: instance, Log: log.With("component", "settings")})
	if err != nil {
		return nil, err
	}
	return settingsreport.New(c)
}
