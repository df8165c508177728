//! Schedulers in the host build of the packet path.

#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy's allowance covers test functions alone")]

use lb_common::tracking::FlowEvent;
use weir_packets::{
    host::Host,
    oracle::Action,
    scheduled::{self, Balancer, Scheduled, backend_of},
};

const INGRESS: u32 = 7;

struct OnHost(Host);

fn build(service: &Scheduled) -> OnHost {
    let host = Host::over(service.tables(INGRESS));
    host.memory().room = usize::try_from(service.room).unwrap();
    OnHost(host)
}

impl Balancer for OnHost {
    fn send(&mut self, frame: &[u8]) -> Option<u32> {
        let outcome = self.0.run(INGRESS, frame).outcome;
        (outcome.action == Action::Transmit).then(|| backend_of(&outcome.frame))
    }

    fn events(&self, event: FlowEvent) -> u64 {
        self.0.memory().events.iter().filter(|happened| **happened == event).count() as u64
    }

    fn live(&self, backend: u32) -> u64 {
        self.0.memory().live.get(&backend).copied().unwrap_or(0)
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
