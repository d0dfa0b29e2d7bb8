package status

// Setting are an object's settings that are set and do not do on this node what they
// ask for.
type Setting struct {
	Object string   `json:"object"` // FelixConfiguration/default
	Fields []string `json:"fields"` // spec.vxlanPort=4790
	Text   string   `json:"text"`   // the fields, and why
}

// settings prints one line for each object.
func (p *printer) settings(settings []Setting) {
	for _, s := range settings {
		p.printf("No effect     %s: %s\n", s.Object, s.Text)
	}
}
