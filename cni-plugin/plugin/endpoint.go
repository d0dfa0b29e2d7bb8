package plugin

import (
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// podArgs are the keys of CNI_ARGS by which Kubernetes runtimes name the pod.
type podArgs struct{ namespace, name, uid string }

// parseArgs reads CNI_ARGS, "K=V;K2=V2". Unknown keys are accepted.
func parseArgs(args string) (podArgs, error) {
	var p podArgs
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return p, types.NewError(types.ErrInvalidEnvironmentVariables,
				fmt.Sprintf("CNI_ARGS has %q, want KEY=VALUE pairs with ';' between them", pair), "")
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			p.namespace = value
		case "K8S_POD_NAME":
			p.name = value
		case "K8S_POD_UID":
			p.uid = value
		}
	}
	return p, nil
}

// endpointOf puts together what the runtime said about one interface. Without a
// pod name there is no name for the host side.
func endpointOf(args *skel.CmdArgs, conf *NetConf) (nodeapi.Endpoint, error) {
	pod, err := parseArgs(args.Args)
	if err != nil {
		return nodeapi.Endpoint{}, err
	}
	ep := nodeapi.Endpoint{
		ContainerID: args.ContainerID,
		NetNS:       args.Netns,
		IfName:      args.IfName,
		Network:     conf.Name,
	}
	if pod.name != "" && pod.namespace != "" {
		ep.Namespace, ep.Pod, ep.PodUID = pod.namespace, pod.name, pod.uid
		ep.HostIface = nodeapi.HostIface(pod.namespace, pod.name, args.IfName)
	}
	return ep, cniError(ep.Validate())
}

// recorded is the endpoint under the name that its interface was given. Plugins before
// those that tell a container's interfaces apart gave all of them one alias, handle and
// host side; what they made is known by the alias on the other end of the pod's
// interface. Only names that are spelled otherwise now are looked at.
func recorded(ep nodeapi.Endpoint) nodeapi.Endpoint {
	short := attachment.AliasPrefix + ep.ID().Short()
	if ep.Alias() == short || ep.NetNS == "" {
		return ep
	}
	host, alias, err := veth.HostSide(ep.NetNS, ep.IfName)
	if err != nil || alias != short {
		return ep
	}
	if id, ok := attachment.ParseAlias(alias); ok {
		ep.Network, ep.ContainerID, ep.IfName, ep.HostIface = id.Network, id.ContainerID, id.IfName, host
	}
	return ep
}

// another returns what tells the owners that are not to be replaced by an endpoint: the
// same interface of the same container in another network. A container that is another
// was the pod's before.
func another(ep nodeapi.Endpoint) func(alias string) bool {
	return func(alias string) bool {
		id, ours := attachment.ParseAlias(alias)
		return ours && id.ContainerID == ep.ContainerID && id != ep.ID()
	}
}

// podEndpoint is endpointOf for verbs that cannot do without the pod's name.
func podEndpoint(args *skel.CmdArgs, conf *NetConf) (nodeapi.Endpoint, error) {
	ep, err := endpointOf(args, conf)
	if err == nil && ep.Pod == "" {
		err = types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_ARGS is %q, want K8S_POD_NAMESPACE and K8S_POD_NAME in it: Manx connects Kubernetes pods", args.Args), "")
	}
	return ep, err
}

// cniError gives an error the form in which the runtime gets it: a code and one
// line, however many errors were joined.
func cniError(err error) error {
	if err == nil {
		return nil
	}
	e := nodeapi.AsError(err)
	return types.NewError(uint(e.Code), oneLine(e.Msg), oneLine(e.Details))
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }
