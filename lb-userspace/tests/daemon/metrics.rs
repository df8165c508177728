//! The metrics, read by a parser that is not ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use prometheus_parse::{Scrape, Value};
use weir::{
    api::control::Control,
    metrics::{self, Server},
};

use crate::support::{Daemon, Fake};

fn text(daemon: &Daemon) -> String {
    let control = &daemon.control;
    let (status, services, counters) =
        daemon.block_on(async { (control.status().await, control.services().await, control.stats().await) });
    metrics::encode(&status.unwrap(), &services.unwrap(), &counters.unwrap()).unwrap()
}

/// Samples as `name{label="value",…}` with labels in order, and their values.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let samples = scrape.samples.into_iter().map(|sample| {
        let labels: BTreeMap<_, _> = sample.labels.iter().collect();
        let labels: Vec<_> = labels.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let value = match sample.value {
            Value::Counter(value) | Value::Gauge(value) => value,
            other => panic!("{}: {other:?} is neither counter nor gauge", sample.metric),
        };
        (format!("{}{{{}}}", sample.metric, labels.join(",")), value)
    });
    samples.collect()
}

#[test]
fn every_value_is_there_under_its_name_and_labels() {
    let daemon = Daemon::start();
    let samples = samples(&text(&daemon));
    let expected = [
        ("weir_build_info{abi_version=1,version=0.1.0}", 1.0),
        ("weir_uptime_seconds{}", 11_520.0),
        ("weir_last_change_timestamp_seconds{}", 1_799_999_700.0),
        ("weir_interface_attached{interface=eth1,mode=native}", 1.0),
        ("weir_interface_attached{interface=wan0,mode=none}", 0.0),
        ("weir_table_entries{table=slots}", 65_558.0),
        ("weir_table_capacity{table=slots}", 4_194_304.0),
        ("weir_service_slots{service=web}", 65_537.0),
        ("weir_service_packets_total{service=web}", 1_500_000.0),
        ("weir_service_bytes_total{service=web}", 2_000_000_000.0),
        ("weir_service_connections_total{service=web}", 1234.0),
        ("weir_service_reply_packets_total{service=dns}", 6.0),
        ("weir_service_reply_bytes_total{service=dns}", 5_400.0),
        ("weir_backend_packets_total{backend=10.0.0.7,service=web}", 1_500_000.0),
        ("weir_backend_connections_total{backend=10.0.0.8,service=web}", 0.0),
        ("weir_backend_up{backend=10.0.0.7,service=web}", 1.0),
        ("weir_backend_up{backend=10.0.0.8,service=web}", 0.0),
        ("weir_backend_draining{backend=10.0.0.8,service=web}", 1.0),
        ("weir_backend_down{backend=ten/9 é,service=web}", 1.0),
        ("weir_backend_next_hop_resolved{backend=ten/9 é,service=web}", 0.0),
        ("weir_backend_next_hop_resolved{backend=10.0.0.7,service=web}", 1.0),
        ("weir_backend_weight{backend=10.0.0.7,service=web}", 1.0),
        ("weir_backend_slots{backend=10.0.0.7,service=web}", 65_537.0),
        ("weir_reason_packets_total{reason=forwarded-ipip}", 1_500_000.0),
        ("weir_reason_packets_total{reason=no-backend}", 0.0),
        ("weir_flow_events_total{event=looked-up}", 70_000.0),
        ("weir_flow_events_total{event=not-opened}", 0.0),
        ("weir_table_memory_bytes{table=flows-v4}", 25_165_824.0),
    ];
    for (name, value) in expected {
        assert_eq!(samples.get(name), Some(&value), "{name} among {:#?}", samples.keys());
    }
    // 6 of the node and its tables, 5 x 2 of services, 5 x 3 of backends, 2 slots, 6 x 3 gauges, 3 reasons, 2 events,
    // the memory of 3 tables.
    assert_eq!(samples.len(), 9 + 10 + 15 + 2 + 18 + 3 + 2 + 3);
}

#[test]
fn every_family_has_a_help_and_a_type_line_before_its_samples() {
    let daemon = Daemon::start();
    let text = text(&daemon);
    let mut documented = BTreeSet::new();
    let mut typed = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => assert!(documented.insert(name) && help.ends_with('.'), "{line}"),
            ["#", "TYPE", name, kind] => {
                assert!(typed.insert(name));
                assert_eq!(kind, if name.ends_with("_total") { "counter" } else { "gauge" }, "{name}");
            }
            _ => {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(documented.contains(name) && typed.contains(name), "{line}");
            }
        }
    }
    assert_eq!(documented, typed);
}

#[test]
fn they_are_served_over_tcp_and_on_the_socket() {
    let daemon = Daemon::start();
    let control: Arc<dyn Control> = Arc::new(Fake::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = daemon.block_on(Server::bind("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = server.address().unwrap();
    let serving = daemon.runtime.spawn(server.serve(control, async move { drop(stopped.await) }));

    let (head, body) = get(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(samples(&body).keys().collect::<Vec<_>>(), samples(&text(&daemon)).keys().collect::<Vec<_>>());
    assert!(get(address, "/v1/status").0.starts_with("HTTP/1.1 404"), "the API is for the socket alone");

    stop.send(()).unwrap();
    daemon.block_on(serving).unwrap().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned() + "\r\n", body.to_owned())
}
