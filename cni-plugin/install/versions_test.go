package install

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program is a plugin that answers VERSION with the versions, or with nonsense.
func program(versions ...string) string {
	if len(versions) == 0 {
		return "#!/bin/sh\necho no idea; exit 1\n"
	}
	return fmt.Sprintf("#!/bin/sh\n[ $CNI_COMMAND = VERSION ] || exit 1\necho '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"%s\"]}'\n",
		strings.Join(versions, `","`))
}

// A configuration offers what all of its plugins speak, and the log names the plugin
// that does not speak more.
func TestVersionsAreAgreed(t *testing.T) {
	offers := func(base string, versions ...string) string {
		with := fmt.Sprintf(`"cniVersion": %q`, base)
		if len(versions) > 0 {
			with += fmt.Sprintf(`, "cniVersions": ["%s"]`, strings.Join(versions, `","`))
		}
		return strings.Replace(template, `"cniVersion": "1.0.0"`, with, 1)
	}
	all := program("0.4.0", "1.0.0", "1.1.0")
	for name, tc := range map[string]struct {
		conf, manx, portmap string
		base                string
		versions            []string
		says                string
	}{
		"all can": {offers("1.0.0", "1.0.0", "1.1.0"), all, all, "1.0.0", []string{"1.0.0", "1.1.0"}, ""},
		"portmap of 2023": {offers("1.0.0", "1.0.0", "1.1.0"), all, program("0.4.0", "1.0.0"),
			"1.0.0", nil, `plugin=portmap lacks=[1.1.0] speaks="[0.4.0 1.0.0]"`},
		"an older manx is kept":    {offers("1.0.0", "1.0.0", "1.1.0"), program("1.0.0"), all, "1.0.0", nil, "plugin=manx lacks=[1.1.0]"},
		"one does not answer":      {offers("1.0.0", "1.0.0", "1.1.0"), all, program(), "1.0.0", nil, "plugin=portmap lacks=[1.1.0]"},
		"one is no program":        {offers("1.0.0", "1.0.0", "1.1.0"), all, "text", "1.0.0", nil, "it did not answer VERSION"},
		"1.1.0 alone, and all can": {offers("1.1.0"), all, all, "1.1.0", nil, ""},
		"1.1.0 alone":              {offers("1.1.0"), all, program("0.4.0", "1.0.0"), "1.0.0", nil, "plugin=portmap lacks=[1.1.0]"},
		"no plugin is asked":       {offers("1.0.0"), program(), program(), "1.0.0", nil, ""},
		"an older one":             {offers("0.4.0", "1.1.0"), all, program("0.4.0", "1.0.0"), "0.4.0", nil, "plugin=portmap lacks=[1.1.0]"},
	} {
		t.Run(name, func(t *testing.T) {
			c := host(t)
			c.NetworkConfig = tc.conf
			write(t, filepath.Join(c.BinSource, "manx"), tc.manx, 0o755)
			write(t, filepath.Join(c.BinSource, "portmap"), tc.portmap, 0o755)
			log, err := run(t, c)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(c.NetTarget, c.ConfName))
			if err != nil {
				t.Fatal(err)
			}
			var list pluginList
			if err := json.Unmarshal(raw, &list); err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			if list.CNIVersion != tc.base || !slices.Equal(list.CNIVersions, tc.versions) ||
				list.Name != "k8s-pod-network" || len(list.Plugins) != 2 {
				t.Errorf("%s", raw)
			}
			if strings.Contains(log, "level=WARN") != (tc.says != "") || !strings.Contains(log, tc.says) {
				t.Errorf("log: %s", log)
			}
		})
	}
	c := host(t)
	c.NetworkConfig = offers("1.0.0", "1.0.0", "2.0.0")
	if _, err := run(t, c); err == nil || !strings.Contains(err.Error(), `cniVersions has "2.0.0", want some of`) {
		t.Errorf("an unknown version: %v", err)
	}
}
