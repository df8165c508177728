//! Hand-made tables and the answers they must give.

use NeighbourState::{Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};

use super::*;

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const TUN0: u32 = 4;
const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn link(index: u32, up: bool) -> Event {
    let mac = (index != TUN0).then_some([2, 0, 0, 0, 1, u8::try_from(index).unwrap()]);
    Event::Link(Link { index, name: format!("if{index}"), mac, mtu: 1500, up })
}

fn neighbour(ifindex: u32, address: &str, mac: Mac, state: NeighbourState) -> Event {
    Event::Neighbour(ifindex, ip(address), Neighbour { mac: Some(mac), state })
}

fn hop(ifindex: u32, gateway: Option<&str>) -> Hop {
    Hop { ifindex, gateway: gateway.map(ip), encapsulated: false }
}

fn route(prefix: &str, metric: u32, hops: &[Hop]) -> Route {
    Route { table: Table::Main, prefix: net(prefix), metric, target: Target::Hops(hops.to_vec()) }
}

fn local(prefix: &str) -> Route {
    Route { table: Table::Local, prefix: net(prefix), metric: 0, target: Target::Local }
}

/// 10.0.0.0/24 on eth0 with the default gateway .1, known; 10.0.1.0/24 on eth1; a tunnel; both families.
fn base_routes() -> Vec<Route> {
    vec![
        local("10.0.0.9/32"),
        local("127.0.0.0/8"),
        local("10.0.0.255/32"),
        local("2001:db8::9/128"),
        route("10.0.0.0/24", 0, &[hop(ETH0, None)]),
        route("10.0.1.0/24", 0, &[hop(ETH1, None)]),
        route("10.9.0.0/16", 0, &[hop(TUN0, None)]),
        route("0.0.0.0/0", 100, &[hop(ETH0, Some("10.0.0.1"))]),
        route("2001:db8::/64", 256, &[hop(ETH0, None)]),
        route("::/0", 1024, &[hop(ETH0, Some("fe80::1"))]),
    ]
}

fn view_with(extra: impl IntoIterator<Item = Route>) -> NetworkView {
    NetworkView::new([
        link(ETH0, true),
        link(ETH1, true),
        link(TUN0, true),
        neighbour(ETH0, "10.0.0.1", GATEWAY_MAC, Reachable),
        neighbour(ETH0, "fe80::1", GATEWAY_MAC, Stale),
        Event::Routes(base_routes().into_iter().chain(extra).collect()),
    ])
}

fn via(mac: Mac, ifindex: u32, gateway: Option<&str>) -> Resolution {
    Resolution::Resolved { mac, ifindex, gateway: gateway.map(ip) }
}

#[test]
fn gateway_routes_lead_to_the_gateway_and_on_link_routes_to_the_address_itself() {
    let mut view = view_with([]);
    assert_eq!(view.resolve(ip("192.0.2.7")), via(GATEWAY_MAC, ETH0, Some("10.0.0.1")));
    assert_eq!(view.resolve(ip("2001:db8:1::7")), via(GATEWAY_MAC, ETH0, Some("fe80::1")));
    assert_eq!(view.resolve(ip("10.0.0.7")), Resolution::Unresolved { ask: ip("10.0.0.7"), ifindex: ETH0 });

    view.apply(neighbour(ETH0, "10.0.0.7", [7; 6], Reachable));
    assert_eq!(view.resolve(ip("10.0.0.7")), via([7; 6], ETH0, None));
    view.apply(Event::NeighbourGone(ETH0, ip("10.0.0.7")));
    assert_eq!(view.resolve(ip("10.0.0.7")), Resolution::Unresolved { ask: ip("10.0.0.7"), ifindex: ETH0 });
}

#[test]
fn a_neighbour_counts_only_on_the_interface_that_the_route_names() {
    let mut view = view_with([]);
    view.apply(neighbour(ETH1, "10.0.0.7", [7; 6], Reachable));
    assert_eq!(view.resolve(ip("10.0.0.7")), Resolution::Unresolved { ask: ip("10.0.0.7"), ifindex: ETH0 });
}

#[test]
fn only_states_that_the_kernel_would_send_in_are_usable() {
    let mac_in = |state| Neighbour { mac: Some([7; 6]), state }.usable_mac();
    for state in [Reachable, Stale, Delay, Probe, Permanent, Noarp] {
        assert_eq!(mac_in(state), Some([7; 6]), "{state}");
    }
    for state in [Incomplete, Failed, NeighbourState::None] {
        assert_eq!(mac_in(state), None, "{state}");
    }
    assert_eq!(Neighbour { mac: None, state: Noarp }.usable_mac(), None);
}

#[test]
fn the_longest_prefix_wins_whatever_its_metric() {
    let view = view_with([
        route("192.0.2.0/24", 900, &[hop(ETH0, Some("10.0.0.1"))]),
        route("192.0.2.128/25", 5000, &[hop(ETH1, Some("10.0.1.1"))]),
    ]);
    assert_eq!(view.resolve(ip("192.0.2.200")), Resolution::Unresolved { ask: ip("10.0.1.1"), ifindex: ETH1 });
    assert_eq!(view.resolve(ip("192.0.2.100")), via(GATEWAY_MAC, ETH0, Some("10.0.0.1")));
}

#[test]
fn the_lowest_metric_wins_and_a_link_that_is_down_stands_back() {
    let two = [
        route("198.51.100.0/24", 20, &[hop(ETH1, Some("10.0.1.1"))]),
        route("198.51.100.0/24", 10, &[hop(ETH0, Some("10.0.0.1"))]),
    ];
    let mut view = view_with(two);
    assert_eq!(view.resolve(ip("198.51.100.1")), via(GATEWAY_MAC, ETH0, Some("10.0.0.1")));
    view.apply(link(ETH0, false));
    assert_eq!(view.resolve(ip("198.51.100.1")), Resolution::Unresolved { ask: ip("10.0.1.1"), ifindex: ETH1 });
    view.apply(link(ETH1, false));
    assert_eq!(view.resolve(ip("198.51.100.1")), Resolution::LinkDown { ifindex: ETH0 });
    view.apply(Event::LinkGone(ETH0));
    assert_eq!(view.resolve(ip("198.51.100.1")), Resolution::LinkDown { ifindex: ETH0 });
}

#[test]
fn a_prefix_whose_link_is_down_is_not_handed_to_a_shorter_one() {
    let mut view = view_with([]);
    view.apply(link(ETH1, false));
    assert_eq!(view.resolve(ip("10.0.1.7")), Resolution::LinkDown { ifindex: ETH1 });
}

#[test]
fn multipath_takes_the_first_hop_that_works() {
    let both = [route("203.0.113.0/24", 0, &[hop(ETH1, Some("10.0.1.1")), hop(ETH0, Some("10.0.0.1"))])];
    let mut view = view_with(both);
    assert_eq!(view.resolve(ip("203.0.113.1")), via(GATEWAY_MAC, ETH0, Some("10.0.0.1")));
    view.apply(neighbour(ETH1, "10.0.1.1", [8; 6], Stale));
    assert_eq!(view.resolve(ip("203.0.113.1")), via([8; 6], ETH1, Some("10.0.1.1")));
    view.apply(neighbour(ETH1, "10.0.1.1", [8; 6], Failed));
    view.apply(neighbour(ETH0, "10.0.0.1", GATEWAY_MAC, Failed));
    assert_eq!(view.resolve(ip("203.0.113.1")), Resolution::Unresolved { ask: ip("10.0.1.1"), ifindex: ETH1 });
    view.apply(link(ETH1, false));
    assert_eq!(view.resolve(ip("203.0.113.1")), Resolution::Unresolved { ask: ip("10.0.0.1"), ifindex: ETH0 });
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_gateway() {
    let view = view_with([route("203.0.113.0/24", 0, &[hop(ETH0, Some("fe80::1"))])]);
    assert_eq!(view.resolve(ip("203.0.113.9")), via(GATEWAY_MAC, ETH0, Some("fe80::1")));
}

#[test]
fn what_is_not_forwarded_says_why() {
    let refused = Route { table: Table::Main, prefix: net("192.0.2.0/24"), metric: 0, target: Target::Refused };
    let encapsulated = Hop { encapsulated: true, ..hop(ETH0, Some("10.0.0.1")) };
    let mut view = view_with([refused, route("198.51.100.0/24", 0, &[encapsulated])]);
    assert_eq!(view.resolve(ip("10.0.0.9")), Resolution::Local);
    assert_eq!(view.resolve(ip("10.0.0.255")), Resolution::Local);
    assert_eq!(view.resolve(ip("127.3.2.1")), Resolution::Local);
    assert_eq!(view.resolve(ip("2001:db8::9")), Resolution::Local);
    assert_eq!(view.resolve(ip("192.0.2.1")), Resolution::NoRoute);
    assert_eq!(view.resolve(ip("10.9.1.1")), Resolution::NotEthernet { ifindex: TUN0 });
    assert_eq!(view.resolve(ip("198.51.100.1")), Resolution::NotEthernet { ifindex: ETH0 });
    view.apply(Event::Routes(Vec::new()));
    assert_eq!(view.resolve(ip("10.0.0.1")), Resolution::NoRoute);
}

#[test]
fn client_routes_agree_with_resolve() {
    let mut view = view_with([
        route("203.0.113.0/24", 0, &[hop(ETH1, Some("10.0.1.1")), hop(ETH0, Some("10.0.0.1"))]),
        Route { table: Table::Main, prefix: net("192.0.2.0/24"), metric: 0, target: Target::Refused },
    ]);
    view.apply(neighbour(ETH1, "10.0.1.7", [7; 6], Stale));
    view.apply(neighbour(ETH1, "10.0.1.8", [8; 6], Failed));
    // Not where the route to it leads: this one must not be believed.
    view.apply(neighbour(ETH1, "10.0.0.7", [9; 6], Stale));
    let clients = view.client_routes();

    assert_eq!(clients[&net("0.0.0.0/0")], ClientRoute::Towards(via(GATEWAY_MAC, ETH0, Some("10.0.0.1"))));
    assert_eq!(clients[&net("::/0")], ClientRoute::Towards(via(GATEWAY_MAC, ETH0, Some("fe80::1"))));
    assert_eq!(clients[&net("10.0.1.0/24")], ClientRoute::OnLink { ifindex: ETH1 });
    assert_eq!(clients[&net("10.0.1.7/32")], ClientRoute::Towards(via([7; 6], ETH1, None)));
    assert_eq!(clients[&net("10.0.0.9/32")], ClientRoute::Towards(Resolution::Local));
    assert!(!clients.contains_key(&net("10.0.1.8/32")) && !clients.contains_key(&net("10.0.0.7/32")));

    for address in ["1.1.1.1", "10.0.0.1", "10.0.0.7", "10.0.0.9", "10.0.1.7", "10.0.1.8", "10.9.0.1", "192.0.2.1"]
        .into_iter()
        .chain(["203.0.113.5", "127.0.0.1", "2001:db8::9", "2001:db8::10", "2001:db8:1::1", "10.0.0.255"])
    {
        let entry = longest_match(&clients, IpNet::from(ip(address))).unwrap();
        match (entry, view.resolve(ip(address))) {
            (ClientRoute::Towards(entry), answer) => assert_eq!(*entry, answer, "{address}"),
            (ClientRoute::OnLink { ifindex }, answer) => {
                assert_eq!(answer, Resolution::Unresolved { ask: ip(address), ifindex: *ifindex }, "{address}");
            }
        }
    }
}

#[test]
fn an_unusable_default_route_keeps_its_entry() {
    let mut view = view_with([]);
    view.apply(neighbour(ETH0, "10.0.0.1", GATEWAY_MAC, Failed));
    let unresolved = Resolution::Unresolved { ask: ip("10.0.0.1"), ifindex: ETH0 };
    assert_eq!(view.client_routes()[&net("0.0.0.0/0")], ClientRoute::Towards(unresolved));
    view.apply(link(TUN0, true));
    assert_eq!(
        view.client_routes()[&net("10.9.0.0/16")],
        ClientRoute::Towards(Resolution::NotEthernet { ifindex: TUN0 })
    );
}

#[test]
fn only_what_changes_a_next_hop_makes_views_differ() {
    let view = view_with([]);
    let after = |event| {
        let mut changed = view.clone();
        changed.apply(event);
        changed
    };
    assert!(view.forwards_like(&after(neighbour(ETH0, "10.0.0.1", GATEWAY_MAC, Delay))));
    assert!(view.forwards_like(&after(neighbour(ETH0, "10.0.0.77", [1; 6], Incomplete))));
    assert!(!view.forwards_like(&after(neighbour(ETH0, "10.0.0.1", [1; 6], Reachable))));
    assert!(!view.forwards_like(&after(neighbour(ETH0, "10.0.0.1", GATEWAY_MAC, Failed))));
    assert!(!view.forwards_like(&after(neighbour(ETH0, "10.0.0.77", [1; 6], Failed))));
    assert!(!view.forwards_like(&after(link(ETH1, false))));
    assert!(!view.forwards_like(&after(Event::Routes(base_routes().split_off(5)))));
}

#[test]
fn a_link_takes_its_neighbours_with_it() {
    let mut view = view_with([]);
    view.apply(Event::LinkGone(ETH0));
    assert_eq!(view.neighbour(ETH0, ip("10.0.0.1")), None);
}
