//! Many short connections to the line servers: open one, ask a line, read the answer, close it, open the next.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{runtime, task::JoinSet};

use super::{
    connection::{self, Tally},
    from_each,
    wrk::Report,
};
use crate::Lab;

/// A run of short connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// Connections open at a time, for each client.
    pub connections: u32,
    /// How long.
    pub time: Duration,
}

impl Short {
    /// Connects from all of the lab's clients at the same time, each to a target by its number, from 0: the sum of what
    /// they saw, where `requests` are connections with an answer, and latencies begin with the opening of the connection.
    ///
    /// A client whose ports are to last needs the setting `ipv4/tcp_tw_reuse`.
    ///
    /// # Errors
    /// A client can't work at all, or not one connection had an answer. Connections that fail are no error: they are
    /// counted.
    pub fn run_each(self, lab: &Lab, target: impl Fn(usize) -> SocketAddr) -> Result<Report> {
        let reports = from_each(lab, |number| {
            let target = target(number);
            move || self.run_one(target)
        })?;
        Ok(Report::of_all(&reports))
    }

    fn run_one(self, target: SocketAddr) -> Result<Report> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let began = Instant::now();
        let tallies = runtime.block_on(async {
            let mut workers = JoinSet::new();
            for _ in 0..self.connections {
                workers.spawn(work(target, began + self.time));
            }
            workers.join_all().await
        });
        connection::report(tallies, began.elapsed())
    }
}

async fn work(target: SocketAddr, until: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let began = Instant::now();
        let outcome = connection::ask(target, began).await;
        tally.count(outcome, began.elapsed());
    }
    tally
}
