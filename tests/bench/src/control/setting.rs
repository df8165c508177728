//! Configurations to measure with.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::Ipv4Addr,
    path::Path,
};

/// Weight of every backend, unless it was changed.
pub const WEIGHT: u16 = 10;
/// Port that backends are checked at: one that the lab has no servers at.
pub const CHECK_PORT: u16 = 9000;
/// First address of the backends, and the network that all of them are in.
const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
/// The network of [`BACKENDS`].
pub const NETWORK: &str = "10.128.0.0/9";
/// First VIP.
const VIPS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// How many services there are, and whose backends are whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Services.
    pub services: u32,
    /// Backends of each.
    pub backends: u32,
    /// Each service has backends of its own; otherwise all have the same.
    pub own: bool,
    /// The backends of the first service are checked, every 100 ms; nobody else's are.
    pub checked: bool,
}

impl Setting {
    /// None at all.
    pub const EMPTY: Self = Self::new(0, 0);

    /// So many services with the same backends, none of which is checked.
    #[must_use]
    pub const fn new(services: u32, backends: u32) -> Self {
        Self { services, backends, own: false, checked: false }
    }

    /// The same, but each service has backends of its own.
    #[must_use]
    pub const fn own(self) -> Self {
        Self { own: true, ..self }
    }

    /// The same with checks of the first service.
    #[must_use]
    pub const fn checked(self) -> Self {
        Self { checked: true, ..self }
    }

    /// Slots of each service: what `weir` chooses for so many backends.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        match self.backends {
            0..=128 => 1 << 14,
            129..=512 => 1 << 16,
            513..=2048 => 1 << 18,
            _ => 1 << 20,
        }
    }

    /// The address of a backend of a service, both from 0.
    #[must_use]
    pub fn address(&self, service: u32, backend: u32) -> Ipv4Addr {
        let before = if self.own { service * self.backends } else { 0 };
        Ipv4Addr::from_bits(BACKENDS.to_bits() + before + backend)
    }

    /// The VIP of a service, from 0.
    #[must_use]
    pub fn vip(&self, service: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(VIPS.to_bits() + service)
    }

    /// Addresses and weights of a service's backends.
    #[must_use]
    pub fn weights(&self, service: u32) -> BTreeMap<Ipv4Addr, u16> {
        (0..self.backends).map(|backend| (self.address(service, backend), WEIGHT)).collect()
    }

    /// The configuration file.
    #[must_use]
    pub fn file(&self, instance: &str, interfaces: &[&str], socket: &Path, state: &Path) -> String {
        let mut file = format!(
            "[node]\ninstance = {instance:?}\ninterfaces = {interfaces:?}\nsocket = \"{}\"\nstate_dir = \"{}\"\n\
             outer_v4 = \"10.77.0.0/16\"\nseed = \"0x0123456789abcdeffedcba9876543210\"\n\
             [node.tables]\nservices = {}\nbackends = {}\nslots = {}\n",
            socket.display(),
            state.display(),
            self.services.max(1),
            // One that is removed takes room until it has left.
            (self.services * self.backends + 1000).max(16_384),
            (self.services * self.slots()).max(1 << 22),
        );
        for service in 0..self.services {
            let health = if self.checked && service == 0 {
                format!("{{ port = {CHECK_PORT}, interval = \"100ms\", rise = 1, fall = 1 }}")
            } else {
                "\"none\"".to_owned()
            };
            let vip = self.vip(service);
            // Writing to a string can't fail.
            let _ = write!(
                file,
                "\n[[service]]\nname = \"s{service}\"\nvip = \"{vip}\"\nport = 443\nprotocol = \"tcp\"\nmode = \"ipip\"\n\
                 hold = \"0s\"\nhealth = {health}\n"
            );
            for backend in 0..self.backends {
                let address = self.address(service, backend);
                let _ = write!(
                    file,
                    "[[service.backend]]\nname = \"b{backend}\"\naddress = \"{address}\"\nweight = {WEIGHT}\n"
                );
            }
        }
        file
    }
}

/// `1000x100`, `1000x100-own`, `empty`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.services == 0 {
            return f.write_str("empty");
        }
        write!(f, "{}x{}{}", self.services, self.backends, if self.own { "-own" } else { "" })
    }
}
