// Command manx is the CNI plugin of Manx. Installed under the name manx-ipam as
// well, it stands for the address management that its agent does.
package main

import (
	"os"

	"github.com/manx-cni/manx/cni-plugin/plugin"
)

func main() { plugin.Main(os.Args[0]) }
