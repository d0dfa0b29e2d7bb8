package nl

// BreakSockets closes the sockets under the handle, as a kernel that has had
// enough of them would.
func (h *Handle) BreakSockets() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lib.Close()
	h.rt.close()
}
