//! The metrics by name.
//!
//! They are made anew for each scrape, so that nothing of a removed service or backend stays behind.

use prometheus::{
    GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, Result, TextEncoder,
    core::{Atomic, GenericGaugeVec},
};

use crate::api::types::{Backend, BackendState, NextHop, Service, Stats, Status, Traffic, word};

/// What is counted of services and backends: the metric's name after `weir_service_` or `weir_backend_`, its help and
/// its value.
type TrafficCounter = (&'static str, &'static str, fn(&Traffic) -> u64);

const TRAFFIC: [TrafficCounter; 5] = [
    ("packets_total", "Packets from clients that were forwarded.", |t| t.packets),
    ("bytes_total", "IP bytes from clients that were forwarded.", |t| t.bytes),
    ("connections_total", "TCP connections opened or tried (SYNs).", |t| t.connections),
    ("reply_packets_total", "Reply packets of NAT backends sent back to clients.", |t| t.reply_packets),
    ("reply_bytes_total", "IP bytes of reply packets of NAT backends.", |t| t.reply_bytes),
];

/// A gauge of backends: its name, its help and its value.
type BackendGauge = (&'static str, &'static str, fn(&Backend) -> i64);

const BACKEND_GAUGES: [BackendGauge; 6] = [
    ("weir_backend_up", "1 if the backend takes new flows.", |b| (b.state == BackendState::Up).into()),
    ("weir_backend_down", "1 if the backend's health check fails.", |b| {
        matches!(b.state, BackendState::Down | BackendState::Held).into()
    }),
    ("weir_backend_draining", "1 if the backend drains.", |b| (b.state == BackendState::Draining).into()),
    ("weir_backend_next_hop_resolved", "1 if the MAC address that leads to the backend is known.", |b| {
        matches!(b.next_hop, NextHop::Resolved { .. }).into()
    }),
    ("weir_backend_weight", "Configured share of new flows relative to the other backends.", |b| b.weight.into()),
    ("weir_backend_slots", "Slots whose new flows go to the backend.", |b| b.slots.into()),
];

/// The metrics in Prometheus' text format.
///
/// # Errors
/// None in practice: names and labels are constants.
pub fn encode(status: &Status, services: &[Service], counters: &Stats) -> Result<String> {
    let registry = Registry::new();
    node(&registry, status)?;
    tables(&registry, status)?;
    traffic(&registry, services)?;
    backends(&registry, services)?;
    reasons(&registry, counters)?;
    flow_events(&registry, counters)?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn node(registry: &Registry, status: &Status) -> Result<()> {
    let info = int_gauge(registry, "weir_build_info", "Version of the daemon.", &["version", "abi_version"])?;
    info.with_label_values(&[status.version.as_str(), &status.abi_version.to_string()]).set(1);

    let uptime = gauge(registry, "weir_uptime_seconds", "Time since the daemon started.", &[])?;
    uptime.with_label_values::<&str>(&[]).set(seconds(status.uptime_ms));

    let attached = "1 if the XDP program is attached to the interface.";
    let attached = int_gauge(registry, "weir_interface_attached", attached, &["interface", "mode"])?;
    for interface in &status.interfaces {
        let mode = interface.xdp.map_or_else(|| "none".to_owned(), |mode| word(&mode));
        attached.with_label_values(&[&interface.name, &mode]).set(interface.xdp.is_some().into());
    }

    let changed = "Unix time of the last change of the configuration.";
    let changed = gauge(registry, "weir_last_change_timestamp_seconds", changed, &[])?;
    if let Some(change) = &status.last_change {
        changed.with_label_values::<&str>(&[]).set(seconds(change.at_unix_ms));
    }
    Ok(())
}

fn tables(registry: &Registry, status: &Status) -> Result<()> {
    let used = gauge(registry, "weir_table_entries", "Entries of the kernel table in use.", &["table"])?;
    let capacity = gauge(registry, "weir_table_capacity", "Entries the kernel table has room for.", &["table"])?;
    for table in &status.tables {
        used.with_label_values(&[&table.name]).set(float(table.used));
        capacity.with_label_values(&[&table.name]).set(float(table.capacity));
    }
    let memory = gauge(registry, "weir_table_memory_bytes", "Kernel memory that the table takes.", &["table"])?;
    for table in &status.memory {
        memory.with_label_values(&[&table.name]).set(float(table.bytes));
    }
    Ok(())
}

fn traffic(registry: &Registry, services: &[Service]) -> Result<()> {
    for (name, help, value) in TRAFFIC {
        let of_service = counter(registry, &format!("weir_service_{name}"), help, &["service"])?;
        let of_backend = counter(registry, &format!("weir_backend_{name}"), help, &["service", "backend"])?;
        for service in services {
            of_service.with_label_values(&[&service.name]).inc_by(value(&service.traffic));
            for backend in &service.backends {
                of_backend.with_label_values(&[&service.name, &backend.name]).inc_by(value(&backend.traffic));
            }
        }
    }
    Ok(())
}

fn backends(registry: &Registry, services: &[Service]) -> Result<()> {
    let slots = int_gauge(registry, "weir_service_slots", "Slots of the service.", &["service"])?;
    for service in services {
        slots.with_label_values(&[&service.name]).set(service.slots.into());
    }
    for (name, help, value) in BACKEND_GAUGES {
        let family = int_gauge(registry, name, help, &["service", "backend"])?;
        for service in services {
            for backend in &service.backends {
                family.with_label_values(&[&service.name, &backend.name]).set(value(backend));
            }
        }
    }
    Ok(())
}

fn reasons(registry: &Registry, stats: &Stats) -> Result<()> {
    let help = "Packets that left the program for this reason.";
    let family = counter(registry, "weir_reason_packets_total", help, &["reason"])?;
    for reason in &stats.reasons {
        family.with_label_values(&[&reason.name]).inc_by(reason.packets);
    }
    Ok(())
}

fn flow_events(registry: &Registry, stats: &Stats) -> Result<()> {
    let help = "What happened in the flow tables.";
    let family = counter(registry, "weir_flow_events_total", help, &["event"])?;
    for event in &stats.flow_events {
        family.with_label_values(&[&event.name]).inc_by(event.count);
    }
    Ok(())
}

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
    any_gauge(registry, name, help, labels)
}

fn int_gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
    any_gauge(registry, name, help, labels)
}

fn any_gauge<A: Atomic + 'static>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GenericGaugeVec<A>> {
    let family = GenericGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn seconds(milliseconds: u64) -> f64 {
    float(milliseconds) / 1000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus' numbers are floats; above 2^53 the last digits don't matter"
)]
fn float(number: u64) -> f64 {
    number as f64
}
