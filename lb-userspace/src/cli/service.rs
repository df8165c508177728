//! `weir service`.

use std::{fs, io, path::Path};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{
    args::{AddService, HealthArgs, ServiceCommand},
    context::Context,
    render,
};
use crate::config::raw;

pub fn execute(command: ServiceCommand, context: &mut Context<'_>) -> anyhow::Result<()> {
    match command {
        ServiceCommand::List => {
            let services = context.ask(async |client| client.services().await)?;
            context.show(services.as_slice(), render::services)
        }
        ServiceCommand::Show { name } => {
            let service = context.ask(async |client| client.service(&name).await)?;
            context.show(&service, render::service)
        }
        ServiceCommand::Add(add) => {
            let service = to_add(*add)?;
            let change = context.ask(async |client| client.add_service(&service).await)?;
            context.show_change(&change)
        }
        ServiceCommand::Remove { name } => {
            let change = context.ask(async |client| client.remove_service(&name).await)?;
            context.show_change(&change)
        }
    }
}

fn to_add(add: AddService) -> anyhow::Result<raw::Service> {
    match add {
        AddService { file: Some(file), .. } => from_file(&file),
        AddService { name: Some(name), vip: Some(vip), port: Some(port), mode: Some(mode), .. } => Ok(raw::Service {
            name,
            vip: vip.to_string(),
            port,
            protocol: add.protocol,
            mode,
            scheduler: add.scheduler,
            slots: add.slots.map(Into::into),
            idle: add.flows.idle,
            settle_after: add.flows.settle_after,
            hold: add.flows.hold,
            on_down: add.flows.on_down,
            slow_start: add.flows.slow_start,
            health: health(add.health),
            backends: add.backends,
        }),
        // The argument parser asks for these four unless there is a file.
        _ => bail!("a service needs a name, --vip, --port and --mode"),
    }
}

/// `None` where nothing was said: the daemon's defaults.
fn health(args: HealthArgs) -> Option<raw::Health> {
    let HealthArgs {
        no_health,
        health_port: port,
        health_interval: interval,
        health_timeout: timeout,
        health_rise: rise,
        health_fall: fall,
        health_jitter: jitter,
    } = args;
    if no_health {
        return Some(raw::Health::Off);
    }
    let said = port.is_some()
        || interval.is_some()
        || timeout.is_some()
        || rise.is_some()
        || fall.is_some()
        || jitter.is_some();
    let default = raw::Checks::default();
    said.then(|| {
        raw::Health::Checks(raw::Checks {
            port: port.map(Into::into),
            interval: interval.unwrap_or(default.interval),
            timeout,
            rise: rise.map_or(default.rise, Into::into),
            fall: fall.map_or(default.fall, Into::into),
            jitter: jitter.map_or(default.jitter, Into::into),
        })
    })
}

/// The one `[[service]]` of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceFile {
    service: Vec<raw::Service>,
}

fn from_file(path: &Path) -> anyhow::Result<raw::Service> {
    let (origin, text) = if path == Path::new("-") {
        ("standard input".to_owned(), io::read_to_string(io::stdin()))
    } else {
        (path.display().to_string(), fs::read_to_string(path))
    };
    let text = text.with_context(|| format!("{origin}: can't read it"))?;
    let file: ServiceFile = match toml::from_str(&text) {
        Ok(file) => file,
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            bail!("{origin}:{line}: {}", error.message().replace('\n', "; "))
        }
    };
    match <[raw::Service; 1]>::try_from(file.service) {
        Ok([service]) => Ok(service),
        Err(services) => bail!("{origin}: expected one [[service]], found {}", services.len()),
    }
}
