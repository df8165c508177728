//! What must be unique: names, (VIP, port, protocol), where backends listen, and the backends of NAT services.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::{
    config::{
        problem::{Path, Problems},
        raw,
    },
    spec::{Mode, Protocol, ServicePort},
};

/// Where the packets of a backend go.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its address.
    pub address: IpAddr,
    /// The port that it is reached at.
    pub port: ServicePort,
}

/// What was met so far, by name of what has it.
pub struct Clashes<'r> {
    vips: HashMap<IpAddr, &'r str>,
    services: HashSet<&'r str>,
    endpoints: HashMap<(IpAddr, ServicePort, Protocol), &'r str>,
    /// Backends of the service that was added last.
    backends: HashSet<String>,
    targets: HashMap<Target, String>,
    /// Every port at which a NAT service uses an address, with that service.
    nat: HashMap<(IpAddr, Protocol), Vec<(ServicePort, &'r str)>>,
}

impl<'r> Clashes<'r> {
    /// Nothing met, but the VIPs of all services known.
    pub fn new(config: &'r raw::Config) -> Self {
        let vip = |service: &'r raw::Service| Some((service.vip.parse().ok()?, service.name.as_str()));
        Self {
            vips: config.services.iter().filter_map(vip).collect(),
            services: HashSet::new(),
            endpoints: HashMap::new(),
            backends: HashSet::new(),
            targets: HashMap::new(),
            nat: HashMap::new(),
        }
    }

    /// Adds a service, whose backends are to follow.
    pub fn add_service(
        &mut self,
        service: &'r raw::Service,
        endpoint: Option<(IpAddr, ServicePort)>,
        path: &Path,
        problems: &mut Problems,
    ) {
        self.backends.clear();
        self.targets.clear();
        if !self.services.insert(&service.name) {
            problems.add(path.key("name"), "another service has this name");
        }
        let Some((vip, port)) = endpoint else { return };
        if let Some(other) = self.endpoints.insert((vip, port, service.protocol), &service.name) {
            let what = describe(vip, port, service.protocol);
            problems.add(path.key("vip"), format!("{what} already is service {other:?}"));
        }
    }

    /// Adds the name of a backend of the service added last; whether another has it.
    pub fn add_backend_name(&mut self, name: &str) -> bool {
        !self.backends.insert(name.to_owned())
    }

    /// Adds where the packets of a backend of the service added last go; whether another backend of it is there.
    pub fn add_target(
        &mut self,
        service: &'r raw::Service,
        label: &str,
        target: Target,
        path: &Path,
        problems: &mut Problems,
    ) -> bool {
        let other = self.targets.insert(target, label.to_owned());
        if let Some(other) = &other {
            let what = describe(target.address, target.port, service.protocol);
            problems.add(path.key("address"), format!("{what} already is backend {other:?} of this service"));
        } else if let Some(other) = self.vips.get(&target.address) {
            let message =
                format!("{} is the VIP of service {other:?}; packets would go round in circles", target.address);
            problems.add(path.key("address"), message);
        } else if service.mode == Mode::Nat {
            self.add_nat(service, target, &path.key("address"), problems);
        }
        other.is_some()
    }

    fn add_nat(&mut self, service: &'r raw::Service, target: Target, path: &Path, problems: &mut Problems) {
        let users = self.nat.entry((target.address, service.protocol)).or_default();
        let overlaps = |port: ServicePort| port == target.port || [port, target.port].contains(&ServicePort::Any);
        let other = users.iter().find(|(port, name)| *name != service.name && overlaps(*port));
        if let Some((port, other)) = other {
            let message = format!(
                "{} already is a backend of nat service {other:?}; replies are told apart by the backend's address \
                 and port, so give it another port or address here",
                describe(target.address, *port, service.protocol)
            );
            problems.add(path.clone(), message);
        }
        users.push((target.port, &service.name));
    }
}

/// `192.0.2.1 port 443/tcp`.
fn describe(address: IpAddr, port: ServicePort, protocol: Protocol) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{address} port {port}/{protocol}")
}
