//! What a lab is wired for.

use clap::ValueEnum;

/// A forwarding mode of Weir, which decides about the backends' routes and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Destination rewritten: the backends' default route is the balancer, so that replies pass through it.
    Nat,
    /// MAC rewritten: the backends have the VIPs on their loopback and answer the clients directly.
    L2,
    /// IP in IP: as `l2`, and the backends unwrap with `weir decap`.
    Ipip,
}

impl Mode {
    /// All of them, for loops.
    pub const ALL: [Self; 3] = [Self::Nat, Self::L2, Self::Ipip];

    /// As in a configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::L2 => "l2",
            Self::Ipip => "ipip",
        }
    }
}
