//! Clients: curl and wrk; of our own, one that accounts for every single request, one whose connections stay open, one
//! whose connections are short, one that opens such at a fixed rate, and one that floods.

use std::thread;

use anyhow::{Result, anyhow};

use crate::{Lab, netns::Netns};

mod connection;

pub mod curl;
pub mod flood;
pub mod long_lived;
pub mod paced;
pub mod short;
pub mod steady;
pub mod wrk;

/// Runs a job in a thread inside of each of the lab's clients, all at the same time; `job` makes it by the client's number,
/// from 0.
fn from_each<T: Send, J: FnOnce() -> Result<T> + Send>(lab: &Lab, job: impl Fn(usize) -> J) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let start = |(number, client): (usize, &Netns)| {
            let (job, client) = (job(number), client.clone());
            scope.spawn(move || client.enter(job)?)
        };
        let runs: Vec<_> = lab.clients().iter().enumerate().map(start).collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| Err(anyhow!("a client panicked")))).collect()
    })
}
