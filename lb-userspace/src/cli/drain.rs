//! `weir backend drain --wait`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use super::{context::Context, render};
use crate::api::{
    client::{Client, ClientError},
    types::{BackendFlows, BackendState, Change},
};

/// How often to look at first: many backends are soon drained.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// So many times; then every [`PAUSE`].
const FIRST_PAUSES: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Moves the cursor to the start of its line and erases the line.
const REWRITE: &str = "\r\x1b[K";

/// What is left of a backend that is not there any more.
const NOTHING: BackendFlows = BackendFlows { tracked: 0, oldest_ms: None, settled: true };

/// Shows what draining did, and then what is left of the backend's flows until that is nothing.
///
/// # Errors
/// SIGINT came, the daemon failed, or the backend takes new flows again.
pub fn wait(change: &Change, service: &str, backend: &str, context: &mut Context<'_>) -> anyhow::Result<()> {
    if context.json {
        context.write_json(change)?;
    } else {
        context.show_change(change)?;
    }
    let client = context.client().clone();
    let mut progress = Progress { context, shown: None };
    let ended = Context::runtime()?.block_on(async {
        tokio::select! {
            // First, so that from the first request on the signal does not end the process.
            biased;
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("can't wait for SIGINT")?;
                bail!("interrupted; the backend drains on");
            }
            drained = follow(&client, service, backend, &mut progress) => drained,
        }
    });
    progress.end()?;
    ended
}

/// Ends when no flow is left.
async fn follow(client: &Client, service: &str, backend: &str, progress: &mut Progress<'_, '_>) -> anyhow::Result<()> {
    let mut pauses = std::iter::repeat_n(FIRST_PAUSE, FIRST_PAUSES).chain(std::iter::repeat(PAUSE));
    loop {
        let flows = left(client, service, backend).await?;
        progress.show(flows)?;
        if flows.tracked == 0 && flows.settled {
            return Ok(());
        }
        sleep(pauses.next().unwrap_or(PAUSE)).await;
    }
}

/// What is left of a backend's flows.
async fn left(client: &Client, service: &str, name: &str) -> anyhow::Result<BackendFlows> {
    let service = match client.service(service).await {
        Ok(service) => service,
        Err(ClientError::NotFound(_)) => return Ok(NOTHING),
        Err(error) => return Err(error.into()),
    };
    match service.backends.iter().find(|backend| backend.name == name) {
        None => Ok(NOTHING),
        Some(backend) if backend.state == BackendState::Up => {
            bail!("backend {name:?} of service {:?} drains no more: it takes new flows again", service.name)
        }
        Some(backend) => Ok(backend.flows),
    }
}

/// What is shown of the flows that are left.
struct Progress<'c, 'o> {
    context: &'c mut Context<'o>,
    shown: Option<BackendFlows>,
}

impl Progress<'_, '_> {
    fn show(&mut self, flows: BackendFlows) -> anyhow::Result<()> {
        // The age of the oldest changes all the time.
        let extent = |flows: BackendFlows| (flows.tracked, flows.settled);
        let is_news = self.shown.map(extent) != Some(extent(flows));
        if self.rewrites() {
            self.context.write(&format!("{REWRITE}{}", render::flows_left(&flows)))?;
        } else if is_news && self.context.json {
            self.context.write_json(&flows)?;
        } else if is_news {
            self.context.write(&(render::flows_left(&flows) + "\n"))?;
        }
        self.shown = Some(flows);
        Ok(())
    }

    /// Leaves the line that was rewritten.
    fn end(self) -> anyhow::Result<()> {
        if self.rewrites() && self.shown.is_some() { self.context.write("\n") } else { Ok(()) }
    }

    fn rewrites(&self) -> bool {
        self.context.screen.terminal && !self.context.json
    }
}
