//! wrk, in clients' namespaces.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;

use crate::{Lab, netns::Netns, process::run};

/// A run of wrk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrk {
    /// Connections open at a time, for each client.
    pub connections: u32,
    /// How long, in seconds.
    pub seconds: u32,
    /// Whether connections are used again; otherwise each request has one of its own.
    pub keep_alive: bool,
}

/// What wrk, or another client, saw.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Report {
    /// Complete answers.
    pub requests: u64,
    /// Answers with a status other than 2xx and 3xx.
    pub bad_status: u64,
    /// Connections that could not be made.
    pub connect_errors: u64,
    /// Connections that failed before the answer was complete.
    pub read_errors: u64,
    /// Requests that could not be sent.
    pub write_errors: u64,
    /// Answers that took longer than two seconds; of downloads, ten.
    pub timeouts: u64,
    /// Answers by backend, by their header `X-Backend`.
    pub by_backend: BTreeMap<String, u64>,
    /// Median latency, microseconds; of several clients the worst.
    pub p50_us: u64,
    /// 99th percentile of the latency, microseconds; of several clients the worst.
    pub p99_us: u64,
    /// The 99.9th, in the same way.
    pub p999_us: u64,
    /// Bytes of all answers.
    pub bytes: u64,
    /// Duration of the run, microseconds.
    pub duration_us: u64,
    /// Of clients whose requests had a time each: how they kept to it.
    #[serde(default)]
    pub pace: Option<Pace>,
}

/// How requests came in time that had a time each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Pace {
    /// How late they were made, microseconds: the 99th percentile.
    pub late_p99_us: u64,
    /// Answers that came before the time of the run was over.
    pub in_time: u64,
}

impl Report {
    /// Requests that did not end well.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.bad_status + self.connect_errors + self.read_errors + self.write_errors + self.timeouts
    }

    /// How long it took.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.duration_us)
    }

    /// What several clients saw that worked at the same time, none of which had times to keep to.
    pub(super) fn of_all(reports: &[Self]) -> Self {
        let mut sum = Self::default();
        for report in reports {
            sum.add(report);
        }
        sum
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bad_status += other.bad_status;
        self.connect_errors += other.connect_errors;
        self.read_errors += other.read_errors;
        self.write_errors += other.write_errors;
        self.timeouts += other.timeouts;
        for (backend, count) in &other.by_backend {
            *self.by_backend.entry(backend.clone()).or_default() += count;
        }
        self.p50_us = self.p50_us.max(other.p50_us);
        self.p99_us = self.p99_us.max(other.p99_us);
        self.p999_us = self.p999_us.max(other.p999_us);
        self.bytes += other.bytes;
        self.duration_us = self.duration_us.max(other.duration_us);
    }
}

impl Wrk {
    /// Loads `url` from all of the lab's clients at the same time: the sum of what they saw.
    ///
    /// wrk does not count a connection that hangs at the end of the run: where that matters,
    /// [`crate::client::steady`] does.
    ///
    /// # Errors
    /// wrk can't be run, or not one of its requests was answered. Failed requests are no error: they are counted.
    pub fn run(self, lab: &Lab, url: &str) -> Result<Report> {
        self.run_each(lab, |_| url.to_owned())
    }

    /// The same with a URL for each client by its number, from 0.
    ///
    /// # Errors
    /// As of [`Wrk::run`].
    pub fn run_each(self, lab: &Lab, url: impl Fn(usize) -> String) -> Result<Report> {
        self.run_script(lab, url, 2, concat!(include_str!("wrk.lua"), include_str!("wrk_count.lua")))
    }

    /// The same for large answers: wrk throws them away as they come, and does not see which backend they are from.
    ///
    /// # Errors
    /// As of [`Wrk::run`].
    pub fn download_each(self, lab: &Lab, url: impl Fn(usize) -> String) -> Result<Report> {
        self.run_script(lab, url, 10, include_str!("wrk.lua"))
    }

    fn run_script(self, lab: &Lab, url: impl Fn(usize) -> String, patience: u32, script: &str) -> Result<Report> {
        let file = lab.dir().join("wrk.lua");
        fs::write(&file, script)?;
        let file: &str = &file.to_string_lossy();
        let reports = thread::scope(|scope| {
            let start = |(number, client)| {
                let url = url(number);
                scope.spawn(move || self.run_one(client, &url, patience, file))
            };
            let runs: Vec<_> = lab.clients().iter().enumerate().map(start).collect();
            runs.into_iter()
                .map(|run| run.join().unwrap_or_else(|_| Err(anyhow!("the thread of wrk panicked"))))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Report::of_all(&reports))
    }

    fn run_one(self, client: &Netns, url: &str, patience: u32, script: &str) -> Result<Report> {
        // wrk begins with a connection that it waits for without end.
        let mut command = client.command("timeout");
        command.args(["--kill-after=1", &(self.seconds + 5).to_string(), "wrk"]);
        command.args(["--threads", "1", "--timeout", &format!("{patience}s"), "--script", script]);
        command.args(["--connections", &self.connections.to_string(), "--duration", &format!("{}s", self.seconds)]);
        if !self.keep_alive {
            command.args(["--header", "Connection: close"]);
        }
        let printed = run(command.arg(url), "").context("wrk (status 124: nobody answered it)")?;
        let report = printed.lines().find_map(|line| line.strip_prefix("report: ")).context("wrk reports nothing")?;
        serde_json::from_str(report).with_context(|| format!("wrk's report {report}"))
    }
}
