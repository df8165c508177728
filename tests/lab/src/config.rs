//! Configuration files for the lab's Weir.

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    Lab, Mode,
    addresses::{Family, OUTER_V4, OUTER_V6},
};

/// A `[[service]]`: [`Lab::service`] makes one that works, whose fields can then be changed.
#[derive(Clone, Debug)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// Virtual address.
    pub vip: IpAddr,
    /// Port; `None` is every port.
    pub port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Forwarding mode; the lab is wired for one.
    pub mode: Mode,
    /// What `health` is set to, as TOML.
    pub health: String,
    /// Further lines, as TOML: `scheduler = "source"`.
    pub more: String,
    /// Who serves it.
    pub members: Vec<Member>,
}

/// A `[[service.backend]]`.
#[derive(Clone, Debug)]
pub struct Member {
    /// Name of the backend in the lab.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
    /// Its port where that is not the service's (`nat`).
    pub port: Option<u16>,
    /// Share of new flows.
    pub weight: u16,
}

/// Checks that notice within half a second: TCP connections to the backends' HTTP port.
const FAST_HEALTH: &str = r#"{ port = 80, interval = "200ms", timeout = "200ms", rise = 2, fall = 2, jitter = 10 }"#;

impl Service {
    /// The service `name` on the first VIP of `family`: TCP port 80, all backends with their addresses of the same
    /// family and weight 1, and quick health checks, after which a backend is gone at once.
    pub(crate) fn new(lab: &Lab, name: &str, family: Family) -> Self {
        Self {
            name: name.to_owned(),
            vip: family.vip(1),
            port: Some(80),
            protocol: "tcp",
            mode: lab.mode(),
            health: FAST_HEALTH.to_owned(),
            more: "hold = \"0s\"".to_owned(),
            members: lab.members(family),
        }
    }

    /// The same with the backends' weights, in their order.
    #[must_use]
    pub fn weights(mut self, weights: &[u16]) -> Self {
        for (member, weight) in self.members.iter_mut().zip(weights) {
            member.weight = *weight;
        }
        self
    }

    fn write(&self, file: &mut String) {
        let port = self.port.map_or_else(|| "\"any\"".to_owned(), |port| port.to_string());
        let _ = writeln!(file, "\n[[service]]\nname = \"{}\"\nvip = \"{}\"\nport = {port}", self.name, self.vip);
        let _ = writeln!(file, "protocol = \"{}\"\nmode = \"{}\"", self.protocol, self.mode.name());
        let _ = writeln!(file, "health = {}\n{}", self.health, self.more);
        for member in &self.members {
            let _ = writeln!(file, "[[service.backend]]\nname = \"{}\"\naddress = \"{}\"", member.name, member.address);
            if let Some(port) = member.port {
                let _ = writeln!(file, "port = {port}");
            }
            let _ = writeln!(file, "weight = {}", member.weight);
        }
    }
}

/// A whole file for `lab`; `node` are further lines of `[node]`.
pub(crate) fn render(lab: &Lab, node: &str, services: &[Service]) -> String {
    let interfaces = lab.balancer_interfaces().iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let mut file = format!(
        r#"[node]
instance = "{}"
interfaces = [{interfaces}]
socket = "{}"
state_dir = "{}"
outer_v4 = "{OUTER_V4}"
outer_v6 = "{OUTER_V6}"
{node}
"#,
        lab.id(),
        lab.socket().display(),
        lab.dir().join("state").display(),
    );
    for service in services {
        service.write(&mut file);
    }
    file
}
