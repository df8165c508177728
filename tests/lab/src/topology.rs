//! The wires: namespaces, veth pairs, bridges, addresses and routes.
//!
//! ```text
//!  c1 .. cN ---- brc [ router ] br0 ---- lb ; b1 .. bN            one-armed
//!  c1 .. cN ---- brc [ router ] br0 ---- lb ---- br1 ---- b1 .. bN  two-armed (br1 is in the router's namespace too)
//! ```

use std::{fmt::Write as _, net::IpAddr};

use anyhow::Result;

use crate::{
    Mode,
    addresses::{BALANCER, Family, Network, ROUTER, VIPS, member},
    netns::Netns,
    process::run,
};

/// Bytes of IP packet on the clients' side.
const CLIENT_MTU: u16 = 1500;
/// Bytes of IP packet between balancer and backends: a client's packet with another IPv6 header and room to spare.
const FABRIC_MTU: u16 = 1600;

/// What a lab consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) mode: Mode,
    pub(crate) clients: u8,
    pub(crate) backends: u8,
    pub(crate) two_armed: bool,
}

impl Shape {
    /// The network that the backends are in.
    pub(crate) fn backend_network(self) -> Network {
        if self.two_armed { Network::SecondFabric } else { Network::Fabric }
    }

    /// The router's ports towards the balancer, which are also the balancer's interfaces by index.
    pub(crate) fn balancer_ports(self) -> &'static [&'static str] {
        if self.two_armed { &["lb0", "lb1"] } else { &["lb0"] }
    }

    /// The balancer's interfaces.
    pub(crate) fn balancer_interfaces(self) -> &'static [&'static str] {
        if self.two_armed { &["eth0", "eth1"] } else { &["eth0"] }
    }

    /// The addresses of backend `index` that services can point at.
    pub(crate) fn backend_address(self, family: Family, index: u8) -> IpAddr {
        self.backend_network().host(family, member(index))
    }

    /// Whether the backends have the VIPs themselves and answer the clients directly.
    pub(crate) fn direct_return(self) -> bool {
        self.mode != Mode::Nat
    }
}

/// The namespaces of a lab.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) clients: Vec<Netns>,
    pub(crate) router: Netns,
    pub(crate) balancer: Netns,
    pub(crate) backends: Vec<Netns>,
}

impl Nodes {
    /// Makes and wires the namespaces of lab `id`.
    pub(crate) fn build(id: &str, shape: Shape) -> Result<Self> {
        let make = |name: &str| {
            let namespace = Netns::create(format!("{id}-{name}"))?;
            settle(&namespace)?;
            Ok(namespace)
        };
        let make_all = |letter: &str, count: u8| -> Result<Vec<Netns>> {
            (1..=count).map(|n| make(&format!("{letter}{n}"))).collect()
        };
        let nodes = Self {
            clients: make_all("c", shape.clients)?,
            router: make("router")?,
            balancer: make("lb")?,
            backends: make_all("b", shape.backends)?,
        };
        nodes.wire_router(shape)?;
        nodes.wire_clients()?;
        nodes.wire_balancer(shape)?;
        nodes.wire_backends(shape)?;
        nodes.switch_offloads_off(shape)?;
        Ok(nodes)
    }

    /// The router's bridges and all veth pairs: each has one end here.
    fn wire_router(&self, shape: Shape) -> Result<()> {
        let mut script = String::new();
        bridge(&mut script, "brc", CLIENT_MTU, Network::Clients);
        bridge(&mut script, "br0", FABRIC_MTU, Network::Fabric);
        if shape.two_armed {
            bridge(&mut script, "br1", FABRIC_MTU, Network::SecondFabric);
        }
        let backend_bridge = if shape.two_armed { "br1" } else { "br0" };
        for (index, client) in self.clients.iter().enumerate() {
            port(&mut script, &format!("c{}", index + 1), "brc", CLIENT_MTU, client, "eth0");
        }
        for (interface, (port_name, bridge_name)) in
            shape.balancer_interfaces().iter().zip(shape.balancer_ports().iter().zip(["br0", "br1"]))
        {
            port(&mut script, port_name, bridge_name, FABRIC_MTU, &self.balancer, interface);
        }
        for (index, backend) in self.backends.iter().enumerate() {
            port(&mut script, &format!("b{}", index + 1), backend_bridge, FABRIC_MTU, backend, "eth0");
        }
        for family in Family::BOTH {
            let next = Network::Fabric.host(family, BALANCER);
            let _ = writeln!(script, "route add {}/{} via {next}", Network::Vips.host(family, 0), length(family));
        }
        self.router.ip(&script)?;
        self.router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
    }

    fn wire_clients(&self) -> Result<()> {
        (0..).zip(&self.clients).try_for_each(|(index, client)| {
            let mut script = String::new();
            address(&mut script, "eth0", Network::Clients, member(index));
            default_route(&mut script, Network::Clients, ROUTER);
            client.ip(&script)?;
            // Many short connections from one address: leave no port unused.
            client.sysctl(&[("ipv4/ip_local_port_range", "1024 65535")])
        })
    }

    /// The balancer does not forward: whatever gets through it, XDP has carried.
    fn wire_balancer(&self, shape: Shape) -> Result<()> {
        let mut script = String::new();
        for (interface, network) in shape.balancer_interfaces().iter().zip([Network::Fabric, Network::SecondFabric]) {
            address(&mut script, interface, network, BALANCER);
        }
        default_route(&mut script, Network::Fabric, ROUTER);
        self.balancer.ip(&script)
    }

    fn wire_backends(&self, shape: Shape) -> Result<()> {
        let network = shape.backend_network();
        (0..).zip(&self.backends).try_for_each(|(index, backend)| {
            let mut script = String::new();
            address(&mut script, "eth0", network, member(index));
            default_route(&mut script, network, if shape.direct_return() { ROUTER } else { BALANCER });
            if shape.direct_return() {
                for (family, n) in Family::BOTH.iter().flat_map(|family| (1..=VIPS).map(move |n| (*family, n))) {
                    let _ = writeln!(script, "address add {} dev lo{}", family.vip(n), at_once(family));
                }
            }
            backend.ip(&script)
        })
    }

    /// veth leaves checksums to hardware that is not there: behind an XDP rewrite they would stay wrong.
    /// This turns segmentation offload off too, so that XDP sees packets of the links' size.
    fn switch_offloads_off(&self, shape: Shape) -> Result<()> {
        let leaves = self.clients.iter().chain(&self.backends).map(|node| (node, "eth0".to_owned()));
        let balancer = shape.balancer_interfaces().iter().map(|name| (&self.balancer, (*name).to_owned()));
        let ports = (1..=shape.clients)
            .map(|n| format!("c{n}"))
            .chain(shape.balancer_ports().iter().map(|name| (*name).to_owned()))
            .chain((1..=shape.backends).map(|n| format!("b{n}")))
            .map(|name| (&self.router, name));
        for (node, device) in leaves.chain(balancer).chain(ports) {
            run(node.command("ethtool").args(["-K", &device, "tx", "off"]), "")?;
        }
        Ok(())
    }
}

/// What every node has in common, before it has interfaces. A new namespace takes some of these from the host, so
/// that each is set.
fn settle(namespace: &Netns) -> Result<()> {
    namespace.sysctl(&[
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        // Link-local addresses work at once.
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        // Direct return: requests and replies take different ways.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/lo/rp_filter", "0"),
        // A VIP on the loopback is nobody's to announce.
        ("ipv4/conf/all/arp_ignore", "1"),
        ("ipv4/conf/all/arp_announce", "2"),
    ])?;
    namespace.ip("link set lo up")
}

fn bridge(script: &mut String, name: &str, mtu: u16, network: Network) {
    // Snooping would wait for a querier before it passes neighbour solicitations.
    let _ = writeln!(script, "link add {name} type bridge mcast_snooping 0");
    let _ = writeln!(script, "link set {name} mtu {mtu}");
    address(script, name, network, ROUTER);
}

fn port(script: &mut String, name: &str, bridge: &str, mtu: u16, node: &Netns, interface: &str) {
    let _ =
        writeln!(script, "link add {name} mtu {mtu} type veth peer name {interface} mtu {mtu} netns {}", node.name());
    let _ = writeln!(script, "link set {name} master {bridge} up");
}

fn address(script: &mut String, device: &str, network: Network, n: u8) {
    let _ = writeln!(script, "link set {device} up");
    for family in Family::BOTH {
        let (host, length, at_once) = (network.host(family, n), length(family), at_once(family));
        let _ = writeln!(script, "address add {host}/{length} dev {device}{at_once}");
    }
}

/// What makes an address usable at once: an IPv6 address is tentative for a moment even where detection of duplicates
/// is off.
fn at_once(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => " nodad",
    }
}

fn default_route(script: &mut String, network: Network, gateway: u8) {
    for family in Family::BOTH {
        let any = if family == Family::V6 { "::/0" } else { "0.0.0.0/0" };
        let _ = writeln!(script, "route add {any} via {}", network.host(family, gateway));
    }
}

/// Prefix length of the plan's networks.
fn length(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}
