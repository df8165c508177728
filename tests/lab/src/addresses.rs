//! Who has which address: one plan for every lab, with the same last number in both families.
//!
//! | network | IPv4 | IPv6 | who |
//! |---|---|---|---|
//! | clients | 10.1.0.0/24 | fd01::/64 | router 1, clients 11 and up |
//! | fabric | 10.2.0.0/24 | fd02::/64 | router 1, balancer 2, backends 11 and up |
//! | second fabric (two-armed) | 10.3.0.0/24 | fd03::/64 | router 1, balancer 2, backends 11 and up |
//! | VIPs | 10.9.0.0/24 | fd09::/64 | 1 to [`VIPS`] |
//! | outer sources of encapsulation | 10.77.0.0/16 | fd77::/64 | nobody |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many VIPs of each family the backends have in the direct-return modes.
pub const VIPS: u8 = 4;
/// Source network of outer IPv4 headers.
pub const OUTER_V4: &str = "10.77.0.0/16";
/// Source network of outer IPv6 headers.
pub const OUTER_V6: &str = "fd77::/64";

/// Last number of the router's addresses.
pub(crate) const ROUTER: u8 = 1;
/// Last number of the balancer's addresses.
pub(crate) const BALANCER: u8 = 2;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for loops.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// VIP number `n`, 1 to [`VIPS`].
    #[must_use]
    pub fn vip(self, n: u8) -> IpAddr {
        Network::Vips.host(self, n)
    }
}

/// A network of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Clients,
    Fabric,
    SecondFabric,
    Vips,
}

impl Network {
    /// Host `n` of this network.
    pub(crate) fn host(self, family: Family, n: u8) -> IpAddr {
        let network = match self {
            Self::Clients => 1,
            Self::Fabric => 2,
            Self::SecondFabric => 3,
            Self::Vips => 9,
        };
        match family {
            Family::V4 => Ipv4Addr::new(10, network, 0, n).into(),
            // The decimal digits are read as hexadecimal, so that 10.2.0.11 stands beside fd02::11.
            Family::V6 => {
                Ipv6Addr::new(0xfd00 + u16::from(network), 0, 0, 0, 0, 0, 0, u16::from(n / 10 * 16 + n % 10)).into()
            }
        }
    }
}

/// Last number of client or backend `index`, from 0.
pub(crate) fn member(index: u8) -> u8 {
    11 + index
}

/// An address as it stands in a URL.
#[must_use]
pub fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_number() {
        assert_eq!(Network::Fabric.host(Family::V4, member(0)).to_string(), "10.2.0.11");
        assert_eq!(Network::Fabric.host(Family::V6, member(0)).to_string(), "fd02::11");
        assert_eq!(Network::Clients.host(Family::V6, member(18)).to_string(), "fd01::29");
        assert_eq!(Family::V6.vip(3).to_string(), "fd09::3");
        assert_eq!(in_url(Family::V6.vip(1)), "[fd09::1]");
    }
}
