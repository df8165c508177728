//! Schedulers in the kernel's build of the packet path (`BPF_PROG_TEST_RUN`), and the rings that they draw from.

#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy's allowance covers test functions alone")]

mod tables;

use anyhow::{Context as _, Result};
use lb_common::{
    abi::{RING_ENTRIES, choice},
    tracking::FlowEvent,
};
use weir::{
    dataplane::Kernel,
    object::OBJECT,
    tables::{Capacity, Dataplane as _, Write, diff},
};
use weir_packets::scheduled::{self, Balancer, Flow, Scheduled, backend_of};

use self::tables::{capacity, writes};

/// The loopback device: everything comes in and leaves by it, and nothing is ever sent.
const LOOPBACK: u32 = 1;
/// `XDP_TX`.
const TRANSMIT: u32 = 3;

struct InKernel(Kernel);

impl InKernel {
    fn new(service: &Scheduled) -> Result<Self> {
        let tables = service.tables(LOOPBACK);
        let capacity = Capacity { routes: 1, ..capacity(&tables, service.room)? };
        let mut kernel = Kernel::open_unpinned(OBJECT, tables.settings, &capacity)?;
        kernel.write(&writes(&tables))?;
        Ok(Self(kernel))
    }

    /// The tables that the kernel holds, with another ring.
    fn with_ring(&self, backends: &[u32]) -> Result<weir::tables::Tables> {
        let mut tables = self.0.read()?;
        let service = tables.services.values_mut().find(|service| service.slot_count > 0).context("no service")?;
        service.ring_length = u32::try_from(backends.len())?;
        tables.rings.clear();
        if !backends.is_empty() {
            tables.rings.insert(service.id, backends.to_vec());
        }
        Ok(tables)
    }
}

fn build(service: &Scheduled) -> InKernel {
    InKernel::new(service).unwrap_or_else(|error| panic!("{error:#}"))
}

impl Balancer for InKernel {
    fn send(&mut self, frame: &[u8]) -> Option<u32> {
        let (action, after) = self.0.test_run(frame, LOOPBACK).unwrap();
        (action == TRANSMIT).then(|| backend_of(&after))
    }

    fn events(&self, event: FlowEvent) -> u64 {
        self.0.counters(&[], &[]).unwrap().flow_events[event as usize]
    }

    fn live(&self, backend: u32) -> u64 {
        self.0.counters(&[], &[backend]).unwrap().live_flows[&backend]
    }
}

#[test]
fn backends_have_turns() {
    scheduled::check_turns(build);
}

#[test]
fn every_new_flow_is_remembered() {
    scheduled::check_entries(build);
}

#[test]
fn a_full_table_leaves_new_flows_to_the_base() {
    scheduled::check_full_table(build);
}

#[test]
fn random_is_as_random_as_the_ring_says() {
    scheduled::check_random(build);
}

#[test]
fn least_connections_are_counted() {
    scheduled::check_least(build);
}

#[test]
fn the_better_of_two_keeps_many_backends_level() {
    scheduled::check_least_of_two(build);
}

/// Rings grow and shrink while packets go on: after every single write each new flow finds a backend, and the kernel
/// holds what was written.
#[test]
fn a_ring_can_be_changed_under_the_packets() -> Result<()> {
    let weights = vec![1; 5];
    let mut balancer = build(&Scheduled::new(choice::TURN, &[1, 2, 3], &weights));
    let full: Vec<u32> = (1..=5).cycle().take(RING_ENTRIES as usize).collect();
    let mut flows = (0..).map(Flow);
    for ring in [&[4, 5, 4, 5, 1][..], &[2], &full, &[3, 1, 2], &[5, 5, 4]] {
        let desired = balancer.with_ring(ring)?;
        for write in diff(&balancer.0.read()?, &desired) {
            balancer.0.write(&[write])?;
            for flow in flows.by_ref().take(10) {
                balancer.send(&flow.syn()).context("nobody's turn")?;
            }
        }
        assert!(balancer.0.read()? == desired, "after {ring:?}");
        let picks: Vec<_> = flows.by_ref().take(ring.len()).filter_map(|flow| balancer.send(&flow.syn())).collect();
        let (mut picks, mut wanted) = (picks, ring.to_vec());
        picks.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(picks, wanted);
    }
    let nobody = balancer.with_ring(&[])?;
    balancer.0.write(&diff(&balancer.0.read()?, &nobody))?;
    assert_eq!(flows.next().and_then(|flow| balancer.send(&flow.syn())), None, "nobody takes new flows");
    assert!(balancer.0.read()? == nobody);
    Ok(())
}

#[test]
fn the_ring_of_a_service_that_goes_is_empty() -> Result<()> {
    let mut balancer = build(&Scheduled::new(choice::TURN, &[1, 2, 3], &[1; 3]));
    let tables = balancer.0.read()?;
    let (key, service) = tables.services.iter().find(|(_, service)| service.slot_count > 0).context("no service")?;
    let longest = lb_common::abi::Service { ring_length: RING_ENTRIES, ..*service };
    balancer.0.write(&[Write::Service(*key, longest)])?;
    assert_eq!(balancer.0.read()?.rings[&service.id][..4], [1, 2, 3, 0]);
    balancer.0.write(&[Write::RemoveService(*key, longest), Write::Service(*key, longest)])?;
    assert_eq!(balancer.0.read()?.rings[&service.id], [0; RING_ENTRIES as usize]);
    let none = balancer.0.write(&[Write::Ring(service.id, vec![1; RING_ENTRIES as usize + 1])]);
    assert!(none.is_err_and(|error| format!("{error:#}").contains("no room for 1025")));
    Ok(())
}
