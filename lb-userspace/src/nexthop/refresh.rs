//! Which neighbours the kernel is to be asked about, and how often.
//!
//! The kernel keeps a neighbour's address current only while it sends to the neighbour itself. Frames that leave from
//! the packet path are invisible to it, so entries that carry all the traffic go STALE and are never questioned: a
//! server whose network card was replaced would be sent to under its old address for ever. So the neighbours in use
//! are asked for again, with what `ip neighbour replace ... use` sends (`RTM_NEWNEIGH`, `NTF_USE`): "I am about to send
//! there". What that does depends on the entry's state:
//!
//! ```text
//! none, FAILED ─use→ INCOMPLETE (broadcast or multicast questions) ─answer→ REACHABLE, else FAILED
//! STALE ─use→ DELAY (5 s for TCP to confirm it, which our health checks may) → PROBE (3 questions to the old address,
//!             1 s apart) ─answer→ REACHABLE, else FAILED
//! ```
//!
//! (Times are the defaults of `delay_first_probe_time`, `ucast_solicit` and `retrans_time_ms`.) A FAILED entry is not
//! used, and is asked for again by broadcast, which finds the new address. REACHABLE turns STALE by itself after 15 to
//! 45 s without confirmation. Entries that are asked for also count as used, so that the kernel's garbage collection
//! leaves them alone.
//!
//! PERMANENT and NOARP entries are the operator's or the device's and need no question; `NTF_USE` would even make a
//! PERMANENT one temporary.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use rtnetlink::packet_route::neighbour::NeighbourState;

use super::view::NetworkView;

/// Least time between two questions about one neighbour: the kernel needs about this long to give up on one.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A neighbour: interface index and address.
pub type NeighbourKey = (u32, IpAddr);

/// Remembers when each neighbour was asked for.
#[derive(Debug, Default)]
pub struct Refresher {
    asked: BTreeMap<NeighbourKey, Instant>,
}

impl Refresher {
    /// Those of `wanted` that are to be asked for now; counts them as asked.
    ///
    /// Leaves out what the kernel knows or is finding out, what is not on an Ethernet link that is up, and what was
    /// asked for less than [`ASK_AGAIN_AFTER`] ago.
    pub fn due(&mut self, now: Instant, view: &NetworkView, wanted: &BTreeSet<NeighbourKey>) -> Vec<NeighbourKey> {
        self.asked.retain(|_, &mut at| now.duration_since(at) < ASK_AGAIN_AFTER);
        let due: Vec<_> =
            wanted.iter().copied().filter(|key| !self.asked.contains_key(key) && needs_asking(view, *key)).collect();
        self.asked.extend(due.iter().map(|key| (*key, now)));
        due
    }
}

fn needs_asking(view: &NetworkView, (ifindex, address): NeighbourKey) -> bool {
    let reachable_link = view.link(ifindex).is_some_and(|link| link.up && link.mac.is_some());
    let unsure = view.neighbour(ifindex, address).is_none_or(|neighbour| {
        matches!(neighbour.state, NeighbourState::None | NeighbourState::Stale | NeighbourState::Failed)
    });
    reachable_link && unsure
}

#[cfg(test)]
mod tests {
    use NeighbourState::{Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};

    use super::*;
    use crate::nexthop::view::{Event, Link, Neighbour};

    const KEY: NeighbourKey = (2, IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)));

    fn view(up: bool, state: Option<NeighbourState>) -> NetworkView {
        let link = Link { index: 2, name: "eth0".into(), mac: Some([2; 6]), mtu: 1500, up };
        let neighbour = state.map(|state| Event::Neighbour(KEY.0, KEY.1, Neighbour { mac: Some([4; 6]), state }));
        NetworkView::new([Event::Link(link)].into_iter().chain(neighbour))
    }

    #[test]
    fn only_what_the_kernel_does_not_know_is_asked_for() {
        let wanted = BTreeSet::from([KEY]);
        let asked = |state| !Refresher::default().due(Instant::now(), &view(true, state), &wanted).is_empty();
        assert!(asked(None));
        for state in [NeighbourState::None, Stale, Failed] {
            assert!(asked(Some(state)), "{state} must be asked for");
        }
        for state in [Delay, Incomplete, Noarp, Permanent, Probe, Reachable] {
            assert!(!asked(Some(state)), "{state} must be left alone");
        }
    }

    #[test]
    fn nothing_is_asked_on_a_link_that_is_down_or_unknown() {
        let wanted = BTreeSet::from([KEY]);
        assert_eq!(Refresher::default().due(Instant::now(), &view(false, None), &wanted), []);
        assert_eq!(Refresher::default().due(Instant::now(), &NetworkView::default(), &wanted), []);
    }

    #[test]
    fn each_neighbour_is_asked_for_at_most_once_per_interval() {
        let other = (2, IpAddr::from([10, 0, 0, 8]));
        let (view, start) = (view(true, None), Instant::now());
        let mut refresher = Refresher::default();
        assert_eq!(refresher.due(start, &view, &BTreeSet::from([KEY])), [KEY]);
        let soon = start + ASK_AGAIN_AFTER / 2;
        assert_eq!(refresher.due(soon, &view, &BTreeSet::from([KEY, other])), [other]);
        assert_eq!(refresher.due(start + ASK_AGAIN_AFTER, &view, &BTreeSet::from([KEY, other])), [KEY]);
    }
}
