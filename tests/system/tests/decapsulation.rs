//! The decapsulation program in the kernel: what the balancer's program wraps comes out as it was, and of everything
//! else the same bytes as from the host build, which its own tests compare with the packets that went in.

use anyhow::{Result, ensure};
use ipnet::IpNet;
use lb_common::reason::Reason;
use weir::{decap::Decapsulator, object::OBJECT};
use weir_packets::{
    fixtures::{self, world::world},
    host::{self, Host},
    oracle::Action,
    random,
};

/// The loopback device: every network namespace has it at this index.
const INGRESS: u32 = 1;
/// The kernel runs programs over nothing shorter than an Ethernet header.
const SHORTEST: usize = 14;
const GARBAGE: usize = 12_000;

/// The outer networks of the fixtures' world.
fn allowed() -> Result<Vec<IpNet>> {
    Ok(vec!["100.64.10.0/24".parse()?, "fd00:64:0:10::/64".parse()?])
}

/// Every frame of the fixtures, those that the balancer wraps as tunnel packets too.
fn frames() -> Vec<Vec<u8>> {
    let host = Host::new(&world(INGRESS, INGRESS + 1));
    let wrapped = fixtures::all().into_iter().filter(|fixture| fixture.reason == Reason::ForwardedIpip);
    let wrapped = wrapped.map(|fixture| host.run(INGRESS, &fixture.frame).outcome.frame);
    wrapped.chain(fixtures::all().into_iter().map(|fixture| fixture.frame)).collect()
}

/// Runs the program over `frame` and compares; tells whether it took an outer header off.
fn run(program: &mut Decapsulator, frame: &[u8]) -> Result<bool> {
    let expected = host::decapsulate(frame, &allowed()?);
    let (action, after) = program.test_run(frame, INGRESS)?;
    let action = if action == 2 { Action::Pass } else { Action::Drop };
    ensure!(action == expected.action, "{action:?} instead of {:?} of {frame:02x?}", expected.action);
    if action == Action::Pass {
        ensure!(after == expected.frame, "{after:02x?} instead of {:02x?} of {frame:02x?}", expected.frame);
    }
    Ok(expected.reason == Some(Reason::Decapsulated))
}

#[test]
fn the_kernel_unwraps_what_the_host_unwraps() -> Result<()> {
    let mut program = Decapsulator::load(OBJECT, &allowed()?)?;
    let mut unwrapped = 0;
    for frame in frames().iter().filter(|frame| frame.len() >= SHORTEST) {
        unwrapped += usize::from(run(&mut program, frame)?);
    }
    ensure!(unwrapped > 20, "only {unwrapped} frames were unwrapped");
    Ok(())
}

#[test]
fn garbage_is_treated_alike() -> Result<()> {
    let mut program = Decapsulator::load(OBJECT, &allowed()?)?;
    for frame in random::frames(20_260_102, frames()).filter(|frame| frame.len() >= SHORTEST).take(GARBAGE) {
        run(&mut program, &frame)?;
    }
    Ok(())
}

#[test]
fn other_sources_are_not_unwrapped() -> Result<()> {
    let mut program = Decapsulator::load(OBJECT, &["100.64.11.0/24".parse()?])?;
    for frame in frames().iter().filter(|frame| frame.len() >= SHORTEST) {
        let (action, after) = program.test_run(frame, INGRESS)?;
        ensure!((action, &after) == (2, frame), "a tunnel packet of another source was touched: {frame:02x?}");
    }
    Ok(())
}

#[test]
fn too_many_sources_are_refused() -> Result<()> {
    let sources = (0..257u32).map(|n| Ok(format!("10.{}.{}.0/24", n / 256, n % 256).parse()?));
    let error = Decapsulator::load(OBJECT, &sources.collect::<Result<Vec<IpNet>>>()?).err();
    let message = error.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(message.starts_with("cannot allow 10.1.0.0/24: at most 256 sources of each family"), "{message:?}");
    Ok(())
}
