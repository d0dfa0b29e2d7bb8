package router

import (
	"net/netip"
	"reflect"
	"testing"
)

// The answers are those of Debian 12's daemons, shortened.
const birdProtocols = `BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
direct4    Direct     ---        up     00:18:46.288  

range4x0   BGP        ---        start  00:18:46.288  Passive       
  BGP state:          Passive
    Neighbor range:   172.30.0.0/24
    Neighbor AS:      64512

peer6x0x1  BGP        ---        up     00:18:47.402  Established   
  BGP state:          Established
    Neighbor address: fd00:172:30::11
    Neighbor AS:      64512

neighbor4x0 BGP        ---        start  00:18:47.402  Active        Socket: Connection refused
  BGP state:          Active
    Neighbor address: 172.30.0.12
`

const birdRoutes = `BIRD 2.0.12 ready.
Table master4:
172.30.100.0/24      blackhole [announced4 00:18:46.288] * (200)
	Type: static univ
172.30.0.0/24        unicast [direct4 00:18:46.289] * (240)
	dev eth0
	Type: device univ
10.99.0.0/24         unicast [peer4x0x1 00:18:47.406] * (100) [AS64512i]
	via 172.30.0.11 on eth0
	Type: BGP univ
	BGP.origin: IGP
	BGP.as_path: 65001 64512
	BGP.next_hop: 172.30.0.11
	BGP.local_pref: 100
	BGP.community: (64512,1) (64512,2)
	BGP.large_community: (64512, 3, 4)
                     unicast [peer4x0x2 00:18:47.688] (100) [AS64512i]
	via 172.30.0.12 on eth0
	Type: BGP univ
	BGP.next_hop: 172.30.0.12 fe80::1
	BGP.as_path: 
	BGP.local_pref: 200
`

const frrSummary = `{"ipv4Unicast":{"routerId":"172.30.0.251","peers":{"172.30.0.11":{"remoteAs":64512,"state":"Established"}}},
"ipv6Unicast":{"peers":{"fd00:172:30::11":{"state":"Active"}}}}`

const frrRoutes = `{"vrfId": 0, "routes": { "10.99.0.0/24": [{"prefix":"10.99.0.0/24","version":3,"advertisedTo":{"172.30.0.11":{}}},
{"aspath":{"string":"65001 64512","length":2},"origin":"IGP","valid":true,"bestpath":{"overall":true},"locPrf":100,
"community":{"string":"64512:1 64512:2","list":["64512:1","64512:2"]},"largeCommunity":{"string":"64512:3:4"},
"nexthops":[{"ip":"fe80::1","used":true},{"ip":"172.30.0.11","afi":"ipv4","used":true}],"peer":{"peerId":"172.30.0.11"}},
{"aspath":{"string":"","length":0},"locPrf":200,"valid":true,"nexthops":[{"ip":"172.30.0.12","afi":"ipv4","used":true}]}]
,"172.30.100.0/24": [{"prefix":"172.30.100.0/24"},
{"aspath":{"string":"Local"},"sourced":true,"bestpath":{"overall":true},"nexthops":[{"ip":"0.0.0.0","used":true}]}]
}}`

const gobgpNeighbors = `[{"state":{"neighbor_address":"172.30.0.11","session_state":6}},
{"state":{"neighbor_address":"fd00:172:30::11","session_state":3}}]`

const gobgpRoutes = `{"10.99.0.0/24":[{"nlri":{"prefix":"10.99.0.0/24"},"best":true,"attrs":[{"type":1,"value":0},
{"type":2,"as_paths":[{"segment_type":2,"num":2,"asns":[65001,64512]}]},{"type":3,"nexthop":"172.30.0.11"},{"type":5,"value":100},
{"type":8,"communities":[4227858433,4227858434]},{"type":32,"value":[{"ASN":64512,"LocalData1":3,"LocalData2":4}]}]},
{"best":false,"attrs":[{"type":14,"nexthop":"172.30.0.12","afi":1,"safi":1,"value":[{"prefix":"10.99.0.0/24"}]},{"type":5,"value":200}]}],
"172.30.100.0/24":[{"best":true,"attrs":[{"type":3,"nexthop":"0.0.0.0"}]}]}`

const openbgpdNeighbors = `{"neighbors": [{"remote_as": "64512", "remote_addr": "172.30.0.11", "state": "Established"},
{"remote_addr": "172.30.0.0/24", "state": "Active", "config": {"template": true}}, {"remote_addr": "fd00:172:30::11", "state": "Idle"}]}`

const openbgpdRoutes = `{"rib": [{"prefix": "10.99.0.0/24", "aspath": "65001 64512", "exit_nexthop": "172.30.0.11",
"best": true, "localpref": 100, "communities": ["64512:1", "64512:2"], "large_communities": ["64512:3:4"]},
{"prefix": "10.99.0.0/24", "aspath": "", "exit_nexthop": "172.30.0.12", "ecmp": true, "localpref": 200},
{"prefix": "172.30.100.0/24", "aspath": "", "exit_nexthop": "0.0.0.0", "neighbor": {"remote_addr": "???"}, "best": true, "localpref": 0}]}`

func TestParseRoutes(t *testing.T) {
	want := map[netip.Prefix][]Route{
		netip.MustParsePrefix("10.99.0.0/24"): {
			{NextHop: netip.MustParseAddr("172.30.0.11"), ASPath: []uint32{65001, 64512}, LocalPref: 100, Best: true,
				Communities: []string{"64512:1", "64512:2"}, LargeCommunities: []string{"64512:3:4"}},
			{NextHop: netip.MustParseAddr("172.30.0.12"), LocalPref: 200},
		},
		netip.MustParsePrefix("172.30.100.0/24"): {{Best: true}},
	}
	for daemon, c := range map[string]struct {
		parse func(string) (map[netip.Prefix][]Route, error)
		out   string
	}{
		BIRD: {parseBIRDRoutes, birdRoutes}, FRR: {parseFRRRoutes, frrRoutes},
		GoBGP: {parseGoBGPRoutes, gobgpRoutes}, OpenBGPD: {parseOpenBGPDRoutes, openbgpdRoutes},
	} {
		got, err := c.parse(c.out)
		for to := range got {
			for i := range got[to] { // no communities are no communities
				if p := &got[to][i]; len(p.Communities)+len(p.LargeCommunities) == 0 {
					p.Communities, p.LargeCommunities = nil, nil
				}
			}
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("of %s's answer the routes are\n%+v, %v; want\n%+v", daemon, got, err, want)
		}
		if got, err := c.parse(""); err != nil || len(got) != 0 {
			t.Errorf("of %s's empty answer the routes are %+v, %v", daemon, got, err)
		}
		if got, err := c.parse("gibberish {"); err == nil {
			t.Errorf("of gibberish by %s the routes are %+v", daemon, got)
		}
	}
}

func TestParseSessions(t *testing.T) {
	node, node6 := netip.MustParseAddr("172.30.0.11"), netip.MustParseAddr("fd00:172:30::11")
	up := Session{State: "Established", Established: true}
	for daemon, c := range map[string]struct {
		parse func(string) (map[netip.Addr]Session, error)
		out   string
		want  map[netip.Addr]Session
	}{
		BIRD:     {parseBIRDSessions, birdProtocols, map[netip.Addr]Session{node6: up, netip.MustParseAddr("172.30.0.12"): {State: "Active"}}},
		FRR:      {parseFRRSessions, frrSummary, map[netip.Addr]Session{node: up, node6: {State: "Active"}}},
		GoBGP:    {parseGoBGPSessions, gobgpNeighbors, map[netip.Addr]Session{node: up, node6: {State: "Active"}}},
		OpenBGPD: {parseOpenBGPDSessions, openbgpdNeighbors, map[netip.Addr]Session{node: up, node6: {State: "Idle"}}},
	} {
		got, err := c.parse(c.out)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("of %s's answer the sessions are\n%+v, %v; want\n%+v", daemon, got, err, c.want)
		}
	}
}
