//! What a change costs where there is much.

use std::time::Instant;

use super::{
    world::{World, endpoint},
    *,
};
use crate::{controller::desired::Scope, health::State, spec::Backend};

/// 1,000 services of 100 backends and 16,381 slots: prints what one backend that fails costs.
#[test]
#[ignore = "a measurement, and only worth something in a release build"]
fn one_backend_of_a_hundred_thousand_fails() {
    let mut spec = spec(&service("s", 1, "l2", &[1]).replace("4093", "16381"));
    (spec.node.tables.services, spec.node.tables.backends, spec.node.tables.slots) = (1000, 100_000, 16_381_000);
    let pattern = spec.services.remove(0);
    for port in 1..=1000u16 {
        let mut service = pattern.clone();
        (service.name, service.port) = (format!("s{port}"), crate::spec::ServicePort::One(port.try_into().unwrap()));
        let backend =
            |octet: u8| Backend { name: format!("b{octet}"), address: address(octet), ..pattern.backends[0].clone() };
        service.backends = (0..100).map(backend).collect();
        spec.services.push(service);
    }
    let began = Instant::now();
    let mut world = World::on(crate::tables::fake::Kernel::default(), spec, &network(0..=100));
    println!("start: {:?}", began.elapsed());
    for port in [3, 500, 997] {
        let failed = world.want.health.iter_mut().find(|(key, _)| key.service == endpoint(port));
        failed.unwrap().1.state = State::Down;
        let began = Instant::now();
        let plan = world.plan(Scope::Services(&[endpoint(port)].into())).unwrap();
        println!("plan: {:?}, {} slots moved", began.elapsed(), plan.moved[&endpoint(port)]);
        let began = Instant::now();
        plan.writes.iter().for_each(|write| world.mirror.apply(write));
        println!("mirror: {:?}", began.elapsed());
    }
}
