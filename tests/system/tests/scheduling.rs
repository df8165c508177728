//! Schedulers with real servers and clients, from the configuration file to who answers.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result};
use weir_lab::{Family, Lab, Mode, TCP_LINE_PORT, config::Service};
use weir_system::{Lines, lab};

/// What is configured: name, VIP, weights and further lines.
const SERVICES: [(&str, u8, [u16; 3], &str); 4] = [
    ("turns", 1, [1, 5, 9], "scheduler = \"round-robin\""),
    ("weighted", 2, [3, 2, 1], "scheduler = \"weighted-round-robin\""),
    ("least", 3, [1, 1, 2], "scheduler = \"least-connections\""),
    ("slow", 4, [1, 1, 1], "scheduler = \"round-robin\"\nslow_start = \"5m\""),
];

#[test]
fn new_connections_go_where_the_scheduler_says() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.clients(1).backends(3).mode(Mode::L2).build()?;
    let services = SERVICES.map(|(name, vip, weights, more)| {
        let service = lab.service(name, Family::V4).weights(&weights);
        Service { vip: Family::V4.vip(vip), port: Some(TCP_LINE_PORT), more: more.to_owned(), ..service }
    });
    let weir = lab.weir(&lab.config(&services))?;

    assert_eq!(counts(&connect(&lab, 1, 30)?), [("b1".into(), 10), ("b2".into(), 10), ("b3".into(), 10)].into());
    assert_eq!(counts(&connect(&lab, 2, 30)?), [("b1".into(), 15), ("b2".into(), 10), ("b3".into(), 5)].into());

    let mut open = connect(&lab, 3, 12)?;
    assert_eq!(counts(&open), [("b1".into(), 3), ("b2".into(), 3), ("b3".into(), 6)].into());
    open.retain(|(_, backend)| backend != "b2");
    // The clients' FINs are on their way.
    thread::sleep(Duration::from_millis(200));
    open.extend(connect(&lab, 3, 3)?);
    assert_eq!(counts(&open), [("b1".into(), 3), ("b2".into(), 3), ("b3".into(), 6)].into());
    for (lines, backend) in &mut open {
        assert_eq!(lines.ask("still there?")?, *backend, "a connection went elsewhere");
    }

    weir.cli(&["backend", "drain", "slow", "b3"])?;
    let old = connect(&lab, 4, 10)?;
    assert_eq!(counts(&old), [("b1".into(), 5), ("b2".into(), 5)].into());
    weir.cli(&["backend", "undrain", "slow", "b3"])?;
    assert_eq!(counts(&connect(&lab, 4, 21)?), [("b1".into(), 10), ("b2".into(), 10), ("b3".into(), 1)].into());
    Ok(())
}

/// Opens connections one after the other; each with the backend that answers.
fn connect(lab: &Lab, vip: u8, count: usize) -> Result<Vec<(Lines, String)>> {
    let target = SocketAddr::new(Family::V4.vip(vip), TCP_LINE_PORT);
    let connect = |_| {
        let mut lines = Lines::connect(lab.client(), target)?;
        let backend = lines.ask("who are you?")?;
        Ok((lines, backend))
    };
    (0..count).map(connect).collect::<Result<_>>().with_context(|| format!("connecting to {target}"))
}

fn counts(connections: &[(Lines, String)]) -> BTreeMap<String, usize> {
    connections.iter().fold(BTreeMap::new(), |mut counts, (_, backend)| {
        *counts.entry(backend.clone()).or_default() += 1;
        counts
    })
}
