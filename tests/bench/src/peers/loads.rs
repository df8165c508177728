//! What clients do.

use std::{fmt, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use weir_lab::{
    Backend, HTTP_PORTS, TCP_LINE_PORT,
    client::{
        paced::Paced,
        short::Short,
        wrk::{Report, Wrk},
    },
};

use super::balancers::Contender;

/// Connections open at a time, for each client, of most loads: so many that no backend stays without one by chance.
const CONNECTIONS: u32 = 16;
/// How much of the rate that was asked for has to be seen, in hundredths: the last answers come when the time is over.
const ENOUGH: u64 = 95;
/// Bytes of the file that is downloaded.
const PAGE: u64 = 1_000_000;

/// A load of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// HTTP requests on connections that stay open.
    KeepAlive,
    /// HTTP requests with a connection for each, which the server closes.
    Close,
    /// A line and its answer on a connection for each, which the client closes.
    Short,
    /// The same with one connection open at a time for each client: nobody waits for others.
    Light,
    /// The same at a fixed rate, whoever is in between and however long answers take: nobody is at his end.
    Paced,
    /// Downloads of a megabyte on connections that stay open.
    Bulk,
}

impl Load {
    /// All of them, as in tables.
    pub const ALL: [Self; 6] = [Self::KeepAlive, Self::Close, Self::Short, Self::Light, Self::Paced, Self::Bulk];

    /// What tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Close => "close",
            Self::Short => "short",
            Self::Light => "light",
            Self::Paced => "paced",
            Self::Bulk => "bulk",
        }
    }

    /// Loads `contender` for `seconds` from all of its clients: what they saw. `rate` is that of [`Load::Paced`]: connections
    /// a second of all clients together.
    ///
    /// # Errors
    /// A request failed, or not every backend has answered, or there were fewer answers than the rate asks for.
    pub fn run(self, contender: &Contender, seconds: u32, rate: u32) -> Result<Report> {
        let url = |number, path: &str| format!("http://{}{path}", contender.target(number, HTTP_PORTS[0]));
        let wrk = Wrk { connections: CONNECTIONS, seconds, keep_alive: self != Self::Close };
        let backends = contender.lab.backends().len();
        if self == Self::Bulk {
            let bytes = || (0..backends).map(|number| contender.bytes_of(number)).collect::<Result<Vec<_>>>();
            let before = bytes()?;
            let report = wrk.download_each(&contender.lab, |number| url(number, "/1M"))?;
            let served = bytes()?.iter().zip(before).filter(|(now, before)| **now >= before + PAGE).count();
            ensure!(report.bytes >= report.requests * PAGE, "answers are short: {report:?}");
            return checked(report, served, backends);
        }
        let time = Duration::from_secs(seconds.into());
        let report = match self {
            Self::Paced => {
                Paced { rate, time }.run_each(&contender.lab, |number| contender.target(number, TCP_LINE_PORT))?
            }
            Self::Short | Self::Light => {
                let connections = if self == Self::Light { 1 } else { CONNECTIONS };
                let short = Short { connections, time };
                short.run_each(&contender.lab, |number| contender.target(number, TCP_LINE_PORT))?
            }
            _ => wrk.run_each(&contender.lab, |number| url(number, "/"))?,
        };
        let names = contender.lab.backends().iter().map(Backend::name);
        let served = names.filter(|name| report.by_backend.contains_key(*name)).count();
        let known: u64 = report.by_backend.values().sum();
        ensure!(report.by_backend.len() == served && known >= report.requests, "somebody else answered: {report:?}");
        let report = checked(report, served, backends)?;
        if self == Self::Paced { at_rate(report, rate, seconds) } else { Ok(report) }
    }
}

/// `report`, if nothing failed and all of `backends` have served.
fn checked(report: Report, served: usize, backends: usize) -> Result<Report> {
    ensure!(report.failed() == 0, "{} requests failed: {report:?}", report.failed());
    ensure!(report.requests > 0, "no request had an answer");
    ensure!(served == backends, "{served} of {backends} backends have served: {report:?}");
    Ok(report)
}

/// `report`, if its clients had answers at the `rate` at which they asked for `seconds`.
fn at_rate(report: Report, rate: u32, seconds: u32) -> Result<Report> {
    let (achieved, asked) = (report.pace.map_or(0, |pace| pace.in_time), u64::from(rate) * u64::from(seconds));
    ensure!(achieved * 100 >= asked * ENOUGH, "{achieved} of {asked} connections in {seconds} s: {report:?}");
    Ok(report)
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use weir_lab::client::wrk::Pace;

    use super::*;

    #[test]
    fn what_failed_or_was_served_by_some_is_no_figure() {
        let good = Report { requests: 10, ..Report::default() };
        assert_eq!(checked(good.clone(), 3, 3).unwrap(), good);
        assert!(checked(good.clone(), 2, 3).is_err());
        assert!(checked(Report::default(), 3, 3).is_err());
        for bad in [
            Report { bad_status: 1, ..good.clone() },
            Report { connect_errors: 1, ..good.clone() },
            Report { read_errors: 1, ..good.clone() },
            Report { write_errors: 1, ..good.clone() },
            Report { timeouts: 1, ..good },
        ] {
            assert!(checked(bad, 3, 3).is_err());
        }
    }

    #[test]
    fn a_rate_that_was_not_reached_is_no_figure() {
        let of = |in_time| {
            let pace = Some(Pace { late_p99_us: 100, in_time });
            // All of them in the end.
            at_rate(Report { requests: 3000, pace, ..Report::default() }, 1000, 3)
        };
        assert!(of(2999).is_ok());
        assert!(of(2850).is_ok());
        assert!(of(2813).unwrap_err().to_string().starts_with("2813 of 3000 connections in 3 s: "));
        assert!(of(0).is_err());
        assert!(at_rate(Report { requests: 3000, ..Report::default() }, 1000, 3).is_err());
    }
}
