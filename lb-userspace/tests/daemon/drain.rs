//! `weir backend drain --wait` against a backend whose flows end one by one.

use std::{
    io::{self, Write},
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use weir::{api::types::BackendFlows, cli::Screen};

use crate::support::{Daemon, Draining, Ran, assert_out, file};

const WAIT: [&str; 5] = ["backend", "drain", "web", "10.0.0.8", "--wait"];
const DONE: &str = "10.0.0.8 of web drained\n21,845 of 65,537 slots moved (33.3 %); new flows go to 2 of 3 backends\n";

fn left(tracked: u64, oldest_seconds: u64, settled: bool) -> Draining {
    let oldest_ms = (tracked > 0).then_some(oldest_seconds * 1000);
    Draining::Left(BackendFlows { tracked, oldest_ms, settled })
}

/// Whoever sends SIGINT to this process holds it alone, since all that wait hear it.
static SIGNALS: RwLock<()> = RwLock::new(());

/// A daemon whose draining backend is found in `states`, and no SIGINT for as long as the guard lives.
fn daemon(states: &[Draining]) -> (Daemon, RwLockReadGuard<'static, ()>) {
    let quiet = SIGNALS.read().unwrap_or_else(PoisonError::into_inner);
    let daemon = Daemon::start();
    daemon.control.drains(states);
    (daemon, quiet)
}

#[test]
fn what_is_left_is_a_line_each_time_it_changes() {
    let (daemon, _quiet) = daemon(&[
        left(1312, 7200, false),
        left(1312, 7201, false),
        left(312, 7202, true),
        left(1, 90, true),
        left(0, 0, false),
        left(0, 0, true),
    ]);
    let start = Instant::now();
    let expected = "\
at least 1,312 flows left, oldest 2h
312 flows left, oldest 2h
1 flow left, oldest 1m 30s
no flow seen, silent ones may be left
no flows left
";
    assert_out(&daemon.weir(&WAIT), &format!("{DONE}{expected}"));
    let taken = start.elapsed();
    assert!(taken >= Duration::from_secs(1) && taken < Duration::from_secs(10), "{taken:?} for five pauses of 200 ms");
    assert_eq!(daemon.calls(), ["10.0.0.8 of web drained"]);
}

#[test]
fn a_terminal_has_one_line_that_is_rewritten() {
    let (daemon, _quiet) = daemon(&[left(2, 59, true), left(2, 60, true), left(0, 0, true)]);
    let mut out = Vec::new();
    let ended = daemon.weir_into(&WAIT, &mut out, Screen { terminal: true, ..file() });
    assert_eq!(ended, (0, String::new()));
    let expected = "\r\x1b[K2 flows left, oldest 59s\r\x1b[K2 flows left, oldest 1m\r\x1b[Kno flows left\n";
    assert_eq!(String::from_utf8(out).unwrap(), format!("{DONE}{expected}"));
}

#[test]
fn json_is_an_object_for_each_change() {
    let (daemon, _quiet) = daemon(&[left(2, 59, false), left(2, 60, false), left(0, 0, true)]);
    let ran = daemon.weir(&[&WAIT[..], &["--json"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["summary"], json!("10.0.0.8 of web drained"));
    let expected = [
        json!({ "tracked": 2, "oldest_ms": 59_000, "settled": false }),
        json!({ "tracked": 0, "oldest_ms": null, "settled": true }),
    ];
    assert_eq!(lines[1..], expected);
}

#[test]
fn a_backend_that_has_gone_is_drained() {
    for gone in [Draining::Gone, Draining::ServiceGone] {
        let (daemon, _quiet) = daemon(&[left(5, 1, true), gone]);
        assert_out(&daemon.weir(&WAIT), &format!("{DONE}5 flows left, oldest 1s\nno flows left\n"));
    }
}

#[test]
fn what_keeps_a_backend_from_being_drained_is_a_failure() {
    let cases = [
        (Draining::Failing, "weir: can't read the counters\n"),
        (Draining::Up, "weir: backend \"10.0.0.8\" of service \"web\" drains no more: it takes new flows again\n"),
    ];
    for (state, err) in cases {
        let (daemon, _quiet) = daemon(&[left(5, 1, true), state]);
        let ran = daemon.weir(&WAIT);
        let out = format!("{DONE}5 flows left, oldest 1s\n");
        assert_eq!(ran, Ran { code: 1, out, err: err.to_owned() });
    }
}

#[test]
fn a_drain_that_is_refused_is_not_waited_for() {
    let (daemon, _quiet) = daemon(&[left(5, 1, true)]);
    let ran = daemon.weir(&["backend", "drain", "web", "x", "--wait"]);
    let err = "weir: there is no backend \"x\" in service \"web\"\n".to_owned();
    assert_eq!(ran, Ran { code: 1, out: String::new(), err });
}

/// Sends SIGINT to this process as soon as progress is shown.
struct Impatient(String);

impl Write for Impatient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = str::from_utf8(bytes).unwrap();
        self.0.push_str(text);
        if text.contains("left") {
            kill_process(getpid(), Signal::INT).unwrap();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_interrupted_wait_fails_and_the_backend_drains_on() {
    let _alone = SIGNALS.write().unwrap_or_else(PoisonError::into_inner);
    let daemon = Daemon::start();
    daemon.control.drains(&[left(5, 1, true)]);
    let mut reader = Impatient(String::new());
    let ended = daemon.weir_into(&WAIT, &mut reader, Screen { terminal: true, ..file() });
    assert_eq!(ended, (1, "weir: interrupted; the backend drains on\n".to_owned()));
    assert_eq!(reader.0, format!("{DONE}\r\x1b[K5 flows left, oldest 1s\n"));
    assert_eq!(daemon.calls(), ["10.0.0.8 of web drained"]);
}
