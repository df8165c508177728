//! Why a packet got its verdict: one reason, one counter, for each way out of a program.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet got its verdict. Numbers are part of the map layout and only ever appended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name that operators see: lower case, hyphenated, never changed.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Passed: neither IPv4 nor IPv6 (ARP, LLDP and the like).
    NotIp = 0, "not-ip";
    /// Passed: carries a VLAN tag, or two.
    Tagged = 1, "tagged";
    /// Passed: sent to a multicast or broadcast MAC address.
    NotUnicast = 2, "not-unicast";
    /// Passed: headers are cut short or contradict each other.
    Malformed = 3, "malformed";
    /// Passed: neither TCP nor UDP.
    OtherProtocol = 4, "other-protocol";
    /// Passed: no service has this address, port and protocol.
    NoService = 5, "no-service";
    /// Forwarded to a backend by MAC rewriting.
    ForwardedL2 = 6, "forwarded-l2";
    /// Forwarded to a backend in an IP-in-IP tunnel.
    ForwardedIpip = 7, "forwarded-ipip";
    /// Forwarded to a backend with its destination rewritten.
    ForwardedNat = 8, "forwarded-nat";
    /// Reply of a backend, sent to the client with its source rewritten.
    RepliedNat = 9, "replied-nat";
    /// Dropped: the service has no backend that is up.
    NoBackend = 10, "no-backend";
    /// Dropped: the MAC address of the backend or its gateway is not known.
    NextHopUnresolved = 11, "next-hop-unresolved";
    /// Dropped: time to live or hop limit is used up.
    TtlExpired = 12, "ttl-expired";
    /// Dropped: a fragment sent to a VIP.
    Fragment = 13, "fragment";
    /// Dropped: an IPv6 packet with extension headers sent to a VIP.
    ExtensionHeader = 14, "extension-header";
    /// Dropped: larger than the egress device's MTU, encapsulation included.
    TooBig = 15, "too-big";
    /// Dropped: no route to the client of a reply.
    NoRoute = 16, "no-route";
    /// Dropped: the client of a reply is on a connected network and its MAC address is not known yet.
    ClientUnresolved = 17, "client-unresolved";
    /// Dropped: no outer source network is configured for the backend's address family.
    NoOuterSource = 18, "no-outer-source";
    /// Dropped: the headers could not be rewritten; the driver left no room in front of them.
    RewriteFailed = 19, "rewrite-failed";
    /// Dropped: the tables contradict each other.
    Inconsistent = 20, "inconsistent";
    /// Decapsulated and handed to this host.
    Decapsulated = 21, "decapsulated";
    /// Passed as it came: a tunnel packet from a source that is not allowed.
    ForeignTunnel = 22, "foreign-tunnel";
    /// Dropped: a tunnel packet of an allowed source whose inner packet is malformed, or can't tell of congestion.
    MalformedInner = 23, "malformed-inner";
    /// Answered with an RST: the flow's backend is gone.
    Reset = 24, "reset";
    /// Dropped: the flow's backend is gone.
    BackendGone = 25, "backend-gone";
    /// Dropped: a new connection that needs an entry in the full flow table, for its slot's own backend is gone.
    FlowTableFull = 26, "flow-table-full";
}

const _: () = assert!(Reason::ALL.len() <= crate::abi::REASON_COUNTERS as usize);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::Reason;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_count_up_from_zero_and_names_are_unique() {
        let mut names = BTreeSet::new();
        for (expected, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, expected);
            assert!(names.insert(reason.name()), "{} is there twice", reason.name());
            assert!(reason.meaning().ends_with('.'), "{}", reason.meaning());
        }
    }
}
