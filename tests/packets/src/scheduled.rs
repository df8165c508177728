//! Schedulers in the packet path: a service whose new flows somebody other than the slots gives out, and what has to come
//! of that, whichever build of the packet path does it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use lb_common::{
    abi::{SlotWord, choice},
    tracking::FlowEvent,
};

use crate::{
    build::{Mac, Packet, TcpFlags, Transport},
    tables::Tables,
    world::{Backend, Egress, HashInput, Hop, Mode, Protocol, Service, World, in_turn},
};

/// Where the service is.
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
/// Slots of the service.
const SLOTS: usize = 127;

/// A service with a scheduler.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// One of [`choice`].
    pub choice: u32,
    /// Backend ids that it draws from.
    pub ring: Vec<u32>,
    /// Weights of the backends: they have ids from 1 on.
    pub weights: Vec<u32>,
    /// Flows that there is room for.
    pub room: u32,
}

/// A build of the packet path, over the tables of a [`Scheduled`] service.
pub trait Balancer {
    /// The backend that a frame is sent to; `None` if it is to nobody.
    fn send(&mut self, frame: &[u8]) -> Option<u32>;

    /// What happened in the flow table so far.
    fn events(&self, event: FlowEvent) -> u64;

    /// Live flows that a backend has.
    fn live(&self, backend: u32) -> u64;
}

/// A flow of the service; each number is another one.
#[derive(Clone, Copy, Debug)]
pub struct Flow(pub u32);

impl Scheduled {
    /// A service whose backends have these weights and which draws from `ring`.
    #[must_use]
    pub fn new(choice: u32, ring: &[u32], weights: &[u32]) -> Self {
        Self { choice, ring: ring.to_vec(), weights: weights.to_vec(), room: 1 << 16 }
    }

    /// Its tables; frames come in by the device `ingress` (a kernel interface index) and leave by it.
    #[must_use]
    pub fn tables(&self, ingress: u32) -> Tables {
        let ids = 1..=u32::try_from(self.weights.len()).expect("few backends");
        let backends = ids.clone().map(|id| {
            let address = Ipv4Addr::from(0xc633_6400 + id).into();
            Backend { id, address, port: 0, hop: Some(Hop { mac: mac(id), egress: 1 }) }
        });
        let service = Service {
            vip: SERVICE.ip(),
            port: SERVICE.port(),
            protocol: Protocol::Tcp,
            mode: Mode::L2,
            hash: HashInput::Flow,
            backends: backends.collect(),
            slots: in_turn(&ids.collect::<Vec<_>>(), SLOTS),
            gone: None,
        };
        let world = World {
            seed: [3, 4],
            outer_v4: None,
            outer_v6: None,
            egresses: vec![Egress { ifindex: ingress, mtu: 1500, mac: crate::build::WEIR_MAC }],
            services: vec![service],
            routes: Vec::new(),
        };
        let mut tables = Tables::from(&world);
        for slot in &mut tables.slots {
            *slot = SlotWord::new(slot.current(), slot.base(), true);
        }
        for service in tables.services_v4.values_mut().filter(|service| service.slot_count > 0) {
            service.choice = self.choice;
            service.ring_length = u32::try_from(self.ring.len()).expect("few backends");
            tables.rings.insert(service.id, self.ring.clone());
        }
        for (id, backend) in &mut tables.backends {
            backend.weight = self.weights[*id as usize - 1];
        }
        tables
    }
}

/// The backend of a frame: the one that its link-layer destination belongs to.
#[must_use]
pub fn backend_of(frame: &[u8]) -> u32 {
    let destination: Mac = frame[..6].try_into().expect("a frame");
    let id = u32::from_be_bytes([0, 0, destination[4], destination[5]]);
    assert_eq!(destination, mac(id), "no backend's address");
    id
}

fn mac(backend: u32) -> Mac {
    let [_, _, high, low] = backend.to_be_bytes();
    [0x06, 0, 0, 0, high, low]
}

impl Flow {
    /// Its first packet.
    #[must_use]
    pub fn syn(self) -> Vec<u8> {
        self.packet(TcpFlags { syn: true, ..TcpFlags::default() })
    }

    /// One of the others.
    #[must_use]
    pub fn ack(self) -> Vec<u8> {
        self.packet(TcpFlags { ack: true, ..TcpFlags::default() })
    }

    /// The last one.
    #[must_use]
    pub fn fin(self) -> Vec<u8> {
        self.packet(TcpFlags { fin: true, ack: true, ..TcpFlags::default() })
    }

    fn packet(self, flags: TcpFlags) -> Vec<u8> {
        let client = SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + self.0).into(), 40_000);
        Packet::between(client, SERVICE, Transport::Tcp(flags, Vec::new())).bytes()
    }
}

/// Sends the SYNs of so many flows from `first` on: their backends.
fn open(balancer: &mut impl Balancer, first: u32, count: u32) -> Vec<u32> {
    (first..first + count).map(|flow| balancer.send(&Flow(flow).syn()).expect("a backend")).collect()
}

fn counts(picks: &[u32]) -> BTreeMap<u32, u32> {
    picks.iter().fold(BTreeMap::new(), |mut counts, id| {
        *counts.entry(*id).or_default() += 1;
        counts
    })
}

/// New flows get the ring's entries in turn, from the first on; other packets, and those of flows that are known, move
/// nothing on.
pub fn check_turns<B: Balancer>(build: impl Fn(&Scheduled) -> B) {
    for (ring, weights) in [(vec![1, 2, 3], vec![1, 1, 1]), (vec![1, 1, 2, 1, 3, 1, 1], vec![5, 1, 1])] {
        let mut balancer = build(&Scheduled::new(choice::TURN, &ring, &weights));
        let wanted: Vec<u32> = ring.iter().copied().cycle().take(20 * ring.len()).collect();
        let mut picks = Vec::new();
        for flow in (0..).map(Flow).take(wanted.len()) {
            let backend = balancer.send(&flow.syn());
            for frame in [flow.syn(), flow.ack(), flow.ack(), flow.fin()] {
                assert_eq!(balancer.send(&frame), backend, "{flow:?} moved");
            }
            picks.extend(backend);
        }
        assert_eq!(picks, wanted);
    }
}

/// Every new flow is remembered, also where its backend is the slot's base; but none of a service that follows its slots.
pub fn check_entries<B: Balancer>(build: impl Fn(&Scheduled) -> B) {
    let mut balancer = build(&Scheduled::new(choice::TURN, &[1, 2, 3], &[1; 3]));
    open(&mut balancer, 0, 300);
    open(&mut balancer, 0, 300);
    assert_eq!((balancer.events(FlowEvent::Opened), balancer.live(1)), (300, 100));
    let mut balancer = build(&Scheduled::new(choice::SLOT, &[], &[1; 3]));
    open(&mut balancer, 0, 300);
    assert_eq!(balancer.events(FlowEvent::Opened), 0);
}

/// A full table gives new flows to their slot's base, whatever is whose turn, and they stay there.
pub fn check_full_table<B: Balancer>(build: impl Fn(&Scheduled) -> B) {
    let with_room = |choice, room| Scheduled { room, ..Scheduled::new(choice, &[1, 2, 3], &[1; 3]) };
    let mut by_slot = build(&with_room(choice::SLOT, 1));
    let mut balancer = build(&with_room(choice::TURN, 30));
    assert_eq!(counts(&open(&mut balancer, 0, 30)), [(1, 10), (2, 10), (3, 10)].into());
    for flow in (30..200).map(Flow) {
        let base = by_slot.send(&flow.syn());
        assert_eq!([balancer.send(&flow.syn()), balancer.send(&flow.ack())], [base, base]);
    }
    assert_eq!(balancer.events(FlowEvent::Opened), 30);
}

/// Backends are drawn as often as the ring has them: chi-square over 20,000 flows.
pub fn check_random<B: Balancer>(build: impl Fn(&Scheduled) -> B) {
    const FLOWS: u32 = 20_000;
    /// Exceeded by chance once in a million times, with three degrees of freedom.
    const LIMIT: f64 = 30.66;
    let weights = [4, 3, 2, 1];
    let mut balancer = build(&Scheduled::new(choice::RANDOM, &[1, 2, 1, 3, 2, 1, 4, 1, 2, 3], &weights));
    let picks = open(&mut balancer, 0, FLOWS);
    let counts = counts(&picks);
    let chi_square = (1..).zip(weights).map(|(id, weight)| {
        let wanted = f64::from(FLOWS * weight / 10);
        (f64::from(counts[&id]) - wanted).powi(2) / wanted
    });
    let chi_square: f64 = chi_square.sum();
    assert!(chi_square < LIMIT, "{chi_square}: {counts:?}");
    // One after the other they are independent: repetitions are as frequent as chance has them, 30 % here.
    let same = picks.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!((5_600..6_400).contains(&same), "{same} times the same twice running");
}

/// While flows open and close, a new one always goes to a backend that has the fewest for its weight; those that are
/// level have turns.
pub fn check_least<B: Balancer>(build: impl Fn(&Scheduled) -> B) {
    // None has a weight while others take their places in the ring.
    for weights in [vec![1; 5], vec![3, 1, 2], (1..=64).collect(), vec![0; 2]] {
        let ring: Vec<u32> = (1..).take(weights.len()).collect();
        let mut balancer = build(&Scheduled::new(choice::LEAST, &ring, &weights));
        let mut random = fastrand::Rng::with_seed(7);
        let mut flows: BTreeMap<u32, u64> = ring.iter().map(|id| (*id, 0)).collect();
        let mut opened: Vec<(Flow, u32)> = Vec::new();
        for flow in (0..3_000).map(Flow) {
            if random.u8(..) < 110 && !opened.is_empty() {
                let (closing, backend) = opened.swap_remove(random.usize(..opened.len()));
                assert_eq!(balancer.send(&closing.fin()), Some(backend));
                flows.entry(backend).and_modify(|flows| *flows -= 1);
            }
            let backend = balancer.send(&flow.syn()).expect("a backend");
            let load = |id: u32| (flows[&id] + 1, u64::from(weights[id as usize - 1]));
            let (chosen, weight) = load(backend);
            for (other, of_weight) in ring.iter().map(|id| load(*id)) {
                assert!(chosen * of_weight <= other * weight, "{backend} of {flows:?}, weights {weights:?}");
            }
            flows.entry(backend).and_modify(|flows| *flows += 1);
            opened.push((flow, backend));
        }
        assert!(flows.iter().all(|(id, flows)| balancer.live(*id) == *flows), "{flows:?}");
    }
    // Flows that close at once leave all level: nobody gets them all.
    let mut balancer = build(&Scheduled::new(choice::LEAST, &[1, 2, 3, 4], &[1; 4]));
    let picks: Vec<u32> = (0..400)
        .map(Flow)
        .map(|flow| {
            balancer.send(&flow.syn());
            balancer.send(&flow.fin()).expect("a backend")
        })
        .collect();
    assert_eq!(counts(&picks), (1..=4).map(|id| (id, 100)).collect());
}

/// Of many backends each gets about its share by two choices: far closer to it than one choice would come, whose
/// standard deviation is 10 flows here.
pub fn check_least_of_two<B: Balancer>(build: impl Fn(&Scheduled) -> B) {
    let balanced = |weights: &[u32]| {
        let ring: Vec<u32> = (1..).zip(weights).flat_map(|(id, weight)| vec![id; *weight as usize]).collect();
        let mut balancer = build(&Scheduled::new(choice::LEAST_OF_TWO, &ring, weights));
        let counts = counts(&open(&mut balancer, 0, 100 * weights.iter().sum::<u32>()));
        for (id, weight) in (1..).zip(weights) {
            let has = counts.get(&id).copied().unwrap_or_default();
            assert!(has.abs_diff(100 * weight) <= 10 * weight, "{id} has {has} flows for weight {weight}");
        }
    };
    balanced(&[1; 100]);
    let uneven: Vec<u32> = (0..100).map(|n| 1 + n % 3).collect();
    balanced(&uneven);
}
