//! Configuration files for the daemon, and what its namespace has to know.

use std::{fmt::Write as _, net::IpAddr};

use weir_packets::world::{Backend, Mode, Service, World};

use crate::packet::world::address;

/// What the file calls the service.
pub const SERVICE: &str = "wire";

/// Number of the balancer's own address in the network of its backends: beyond any of theirs.
const BALANCER: u32 = 0xfffe;

/// What is the daemon's and not the row's.
pub struct Node<'a> {
    /// Name of the instance.
    pub instance: &'a str,
    /// The interface that frames come in and leave by.
    pub interface: &'a str,
    /// The daemon's socket, a path.
    pub socket: String,
    /// Its state directory, a path.
    pub state_dir: String,
}

/// The name of a backend in the file.
#[must_use]
pub fn backend_name(backend: &Backend) -> String {
    format!("b{}", backend.id)
}

/// A whole file: `node`, and the services of `world`. Backends are not checked, as nobody is there.
#[must_use]
pub fn file(node: &Node<'_>, world: &World) -> String {
    let Node { instance, interface, socket, state_dir } = node;
    let mut file = format!(
        "[node]\ninstance = \"{instance}\"\ninterfaces = [\"{interface}\"]\nxdp = \"native\"\non_exit = \"detach\"\n\
         socket = \"{socket}\"\nstate_dir = \"{state_dir}\"\n"
    );
    if let Some(network) = world.outer_v4 {
        let _ = writeln!(file, "outer_v4 = \"{network}\"");
    }
    if let Some(network) = world.outer_v6 {
        let _ = writeln!(file, "outer_v6 = \"{network}\"");
    }
    for service in &world.services {
        write_service(&mut file, service);
    }
    file
}

fn write_service(file: &mut String, service: &Service) {
    let mode = match service.mode {
        Mode::L2 => "l2",
        Mode::Ipip => "ipip",
        Mode::Nat => "nat",
    };
    let (vip, port) = (service.vip, service.port);
    let _ = writeln!(file, "\n[[service]]\nname = \"{SERVICE}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"tcp\"");
    let _ = writeln!(file, "mode = \"{mode}\"\nhealth = \"none\"");
    for backend in &service.backends {
        let (name, address) = (backend_name(backend), backend.address);
        let _ = writeln!(file, "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"");
        if service.mode == Mode::Nat {
            let _ = writeln!(file, "port = {}", backend.port);
        }
    }
}

/// `ip` commands that make the backends of `world` neighbours at `device`: nobody is there to answer for them.
#[must_use]
pub fn neighbours(device: &str, world: &World) -> String {
    let mut script = String::new();
    for backend in world.services.iter().flat_map(|service| &service.backends) {
        let Some(hop) = backend.hop else { continue };
        let (address, mac) = (backend.address, mac(hop.mac));
        let _ = writeln!(script, "neighbor replace {address} lladdr {mac} dev {device} nud permanent");
    }
    script
}

/// A MAC address as `ip` reads it.
#[must_use]
pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// An `ip` command that gives `device` an address in `network`, whose last 16 bits number the hosts.
#[must_use]
pub fn own_address(device: &str, network: IpAddr) -> String {
    let (length, at_once) = if network.is_ipv4() { (16, "") } else { (112, " nodad") };
    format!("address add {}/{length} dev {device}{at_once}\n", address(network, BALANCER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{packet::world, wire::rows};

    /// The daemon's own reader is the judge.
    #[test]
    fn every_row_makes_a_valid_file() {
        let node = Node {
            instance: "weir-1-0",
            interface: "weir",
            socket: "/run/weir-lab/weir-1-0/weir.sock".to_owned(),
            state_dir: "/run/weir-lab/weir-1-0/state".to_owned(),
        };
        for row in rows::all() {
            let text = file(&node, &world::world(&row.setting));
            let spec = weir::config::parse(&text, "test").unwrap_or_else(|error| panic!("{row}: {error}\n{text}"));
            assert_eq!(spec.services.len(), 1, "{row}");
            assert_eq!(spec.services[0].backends.len(), 100, "{row}");
        }
    }
}
