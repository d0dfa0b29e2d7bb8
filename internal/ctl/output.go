package ctl

import (
	"encoding/json"
	"io"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/internal/cmdline"
)

// How a command prints. yaml has the names and values of json.
const (
	asText = "text"
	asJSON = "json"
	asYAML = "yaml"
)

// output is a command's flag -o: text for people, or the value that the text is made
// of, for programs: docs/reference/manxctl-output.md describes it. The zero value prints
// text.
type output struct{ format string }

// add gives a command the flag.
func (o *output) add(f *pflag.FlagSet) {
	f.VarP(o, "output", "o", "how to print: text, json or yaml")
}

func (o *output) String() string {
	if o.format == "" {
		return asText
	}
	return o.format
}

func (o *output) Set(text string) error {
	format, err := cmdline.Choice("format", text, asText, asJSON, asYAML)
	if err == nil {
		o.format = format
	}
	return err
}

func (o *output) Type() string { return "FORMAT" }

// forPeople tells whether text is printed.
func (o *output) forPeople() bool { return o.String() == asText }

// print writes a value, or what text writes.
func (o *output) print(w io.Writer, value any, text func(io.Writer) error) error {
	if o.forPeople() {
		return text(w)
	}
	encoded, err := o.encode(value)
	if err != nil {
		return err
	}
	_, err = w.Write(encoded)
	return err
}

func (o *output) encode(value any) ([]byte, error) {
	if o.format == asYAML {
		return yaml.Marshal(value)
	}
	encoded, err := json.MarshalIndent(value, "", "  ")
	return append(encoded, '\n'), err
}
