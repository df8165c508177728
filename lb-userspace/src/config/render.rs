//! From the validated configuration back to what could have been written.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{config::raw, spec};

impl From<&spec::Spec> for raw::Config {
    fn from(spec: &spec::Spec) -> Self {
        Self { node: (&spec.node).into(), services: spec.services.iter().map(Into::into).collect() }
    }
}

impl From<&spec::Node> for raw::Node {
    fn from(node: &spec::Node) -> Self {
        Self {
            instance: node.instance.clone(),
            interfaces: node.interfaces.clone(),
            xdp: node.xdp,
            on_exit: node.on_exit,
            socket: Some(path(&node.socket)),
            state_dir: Some(path(&node.state_dir)),
            metrics: node.metrics.map(|address| address.to_string()),
            seed: node.seed.map(|[high, low]| format!("0x{high:016x}{low:016x}")),
            outer_v4: node.outer_v4.map(|net| net.to_string()),
            outer_v6: node.outer_v6.map(|net| net.to_string()),
            tables: raw::Tables {
                services: node.tables.services.into(),
                backends: node.tables.backends.into(),
                slots: node.tables.slots.into(),
                routes: node.tables.routes.into(),
                flows: node.tables.flows.into(),
            },
        }
    }
}

impl From<&spec::Service> for raw::Service {
    fn from(service: &spec::Service) -> Self {
        Self {
            name: service.name.clone(),
            vip: service.vip.to_string(),
            port: match service.port {
                spec::ServicePort::Any => raw::Port::Any,
                spec::ServicePort::One(port) => raw::Port::Number(port.get().into()),
            },
            protocol: service.protocol,
            mode: service.mode,
            scheduler: service.scheduler,
            slots: Some(service.slots.into()),
            idle: Some(duration(service.idle)),
            settle_after: Some(duration(service.settle_after)),
            hold: Some(match service.hold {
                spec::Hold::For(time) => duration(time),
                spec::Hold::Forever => raw::FOREVER.to_owned(),
            }),
            on_down: Some(service.on_down),
            slow_start: Some(duration(service.slow_start)),
            health: Some(service.health.as_ref().map_or(raw::Health::Off, |health| raw::Health::Checks(health.into()))),
            backends: service.backends.iter().map(Into::into).collect(),
        }
    }
}

impl From<&spec::Health> for raw::Checks {
    fn from(health: &spec::Health) -> Self {
        Self {
            port: health.port.map(|port| port.get().into()),
            interval: duration(health.interval),
            timeout: Some(duration(health.timeout)),
            rise: health.rise.into(),
            fall: health.fall.into(),
            jitter: health.jitter.into(),
        }
    }
}

impl From<&spec::Backend> for raw::Backend {
    fn from(backend: &spec::Backend) -> Self {
        Self {
            name: Some(backend.name.clone()),
            address: backend.address.to_string(),
            port: backend.port.map(|port| port.get().into()),
            weight: backend.weight.into(),
            draining: backend.draining,
            drain_until: backend.drain_deadline.map(unix_seconds),
        }
    }
}

/// A path of a [`spec::Spec`] as text; it came from text, so nothing is lost.
fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What has been validated is after 1970 and in whole seconds.
fn unix_seconds(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

/// `1m30s`: the form that is read, without the blanks that a person would like between the units.
fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}
