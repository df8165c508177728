//! What happens to the clients when a server dies, is drained, or Weir's own daemon dies.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::screen::{self, Screen, grouped};
use crate::{
    Lab, WeirDaemon,
    addresses::Family,
    client::steady::{Request, Steady, Story},
};

/// Workers in each client, each of which makes a request every [`PAUSE`].
const WORKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
/// One character of the timelines.
const STEP: Duration = Duration::from_millis(100);
/// A change of a backend's health is in the tables by then: checks run every 200 ms, two in a row decide.
const PATIENCE: Duration = Duration::from_secs(1);

fn steady(lab: &Lab) -> Steady {
    Steady::start(lab, SocketAddr::new(Family::V4.vip(1), 80), WORKERS, PAUSE)
}

/// SIGKILL for a web server, and its return.
pub(super) fn server_dies(lab: &mut Lab, daemon: &WeirDaemon, screen: &mut Screen) -> Result<()> {
    screen.section("A server dies", "SIGKILL to the nginx of b2 under steady load; checks run every 200 ms");
    let load = steady(lab);
    let began = Instant::now();
    sleep(Duration::from_secs(1));
    let killed = Instant::now();
    lab.stop_server(1);
    let down = daemon.wait_for("web", "b2", "down", 5 * PATIENCE)?;
    sleep(Duration::from_millis(1500));
    let revived = Instant::now();
    lab.start_server(1)?;
    let up = daemon.wait_for("web", "b2", "up", 5 * PATIENCE)?;
    sleep(Duration::from_secs(1));
    let story = load.finish()?;

    timeline(&story, began, &[(killed, "killed"), (down, "down"), (revived, "started"), (up, "up")]);
    let undetected = |request: &Request| ended(request) >= killed && request.at < down;
    let returning = |request: &Request| ended(request) >= revived && request.at < up;
    screen::paragraph(&format!(
        "Between SIGKILL and detection {} failed: those under way to b2, and those sent to it\n\
         before Weir knew. While it came back {} failed.",
        failed_of(&story, undetected),
        failed_of(&story, returning)
    ));
    let (detection, recovery) = (down - killed, up - revived);
    screen.check(detection < PATIENCE, &format!("taken out {} ms after SIGKILL", detection.as_millis()));
    nothing_fails(&story, "that ended before the SIGKILL", |request| ended(request) < killed, screen);
    nothing_fails(&story, "begun while b2 was known to be down", |r| r.at >= down && ended(r) < revived, screen);
    screen.check(recovery < PATIENCE, &format!("back {} ms after its start", recovery.as_millis()));
    nothing_fails(&story, "begun after its return", |request| request.at >= up, screen);
    let answers = story.answers_of("b2", up);
    screen.check(answers > 0, &format!("it answers again: {answers} requests in the last second"));
    Ok(())
}

/// A drain by hand.
pub(super) fn server_is_drained(lab: &Lab, daemon: &WeirDaemon, screen: &mut Screen) -> Result<()> {
    screen.section("A server is taken out on purpose", "weir backend drain web b3");
    let load = steady(lab);
    let began = Instant::now();
    sleep(Duration::from_secs(1));
    let asked = Instant::now();
    let said = daemon.cli(&["backend", "drain", "web", "b3"])?;
    let drained = Instant::now();
    sleep(Duration::from_millis(1500));
    let asked_back = Instant::now();
    daemon.cli(&["backend", "undrain", "web", "b3"])?;
    let back = Instant::now();
    sleep(Duration::from_secs(1));
    let story = load.finish()?;

    screen::verbatim(&said);
    timeline(&story, began, &[(drained, "drained"), (back, "undrained")]);
    let meanwhile = |request: &Request| request.at >= drained && ended(request) < asked_back;
    let during = |request: &Request, from: Instant, to: Instant| ended(request) >= from && request.at < to;
    screen::paragraph(&format!(
        "While the two commands ran {} failed.",
        failed_of(&story, |r| during(r, asked, drained) || during(r, asked_back, back))
    ));
    let strays = story.0.iter().filter(|r| meanwhile(r) && r.answer.as_deref() == Ok("b3")).count();
    screen.check(strays == 0, &format!("{strays} new requests reached b3 after the command returned"));
    nothing_fails(&story, "begun while it was drained", meanwhile, screen);
    let answers = story.answers_of("b3", back);
    screen.check(answers > 0, &format!("undrained, it answers again: {answers} requests in the last second"));
    nothing_fails(&story, "begun after that", |request| request.at >= back, screen);
    Ok(())
}

/// SIGKILL for Weir's daemon, and its return.
pub(super) fn daemon_dies(lab: &Lab, daemon: &mut WeirDaemon, screen: &mut Screen) -> Result<()> {
    screen.section("Weir itself dies", "SIGKILL to the daemon under steady load; started again after 2 s");
    let counted_before: u64 = daemon.connections("web")?.iter().map(|(_, count)| count).sum();
    let load = steady(lab);
    let began = Instant::now();
    sleep(Duration::from_secs(1));
    let killed = Instant::now();
    daemon.kill9()?;
    sleep(Duration::from_secs(2));
    let started = Instant::now();
    daemon.restart()?;
    let ready = Instant::now();
    sleep(Duration::from_secs(1));
    let story = load.finish()?;

    timeline(&story, began, &[(killed, "killed"), (ready, "back")]);
    let alone = story.0.iter().filter(|request| request.at >= killed && request.at < started).count();
    screen.check(alone > 0, &format!("{} requests were begun while there was no daemon", grouped(alone as u64)));
    nothing_fails(&story, "of the whole run", |_| true, screen);
    let counted: u64 = daemon.connections("web")?.iter().map(|(_, count)| count).sum();
    let expected = counted_before + story.0.len() as u64;
    screen.check(
        counted == expected,
        &format!(
            "the new daemon took over in {} ms, and every connection is still counted: {} of {}",
            (ready - started).as_millis(),
            grouped(counted),
            grouped(expected)
        ),
    );
    Ok(())
}

/// When it was answered, or had failed.
fn ended(request: &Request) -> Instant {
    request.at + request.took
}

/// How many of the requests that `which` takes have failed: `3 of 1,234 requests`.
fn failed_of(story: &Story, which: impl Fn(&Request) -> bool) -> String {
    let all: Vec<_> = story.0.iter().filter(|request| which(request)).collect();
    let failed = all.iter().filter(|request| request.answer.is_err()).count();
    format!("{} of {} requests", grouped(failed as u64), grouped(all.len() as u64))
}

/// Checks that none of the requests that `which` takes has failed; there must be some.
fn nothing_fails(story: &Story, what: &str, which: impl Fn(&Request) -> bool, screen: &mut Screen) {
    let mut requests = story.0.iter().filter(|request| which(request)).peekable();
    let any = requests.peek().is_some();
    let failure = requests.find_map(|request| request.answer.as_ref().err());
    let why = failure.map(|why| format!(" (the first: {why})")).unwrap_or_default();
    let kept = any && failure.is_none();
    screen.check(kept, &format!("{} {what} failed{why}", failed_of(story, which)));
}

/// Answers and failures over time, with a mark at each event.
fn timeline(story: &Story, began: Instant, events: &[(Instant, &str)]) {
    let step_of = |at: Instant| {
        usize::try_from(at.saturating_duration_since(began).as_millis() / STEP.as_millis()).unwrap_or_default()
    };
    let steps = story.0.iter().map(|request| step_of(ended(request)) + 1).max().unwrap_or_default();
    let (mut answered, mut failed) = (vec![0; steps], vec![0; steps]);
    for request in &story.0 {
        let row = if request.answer.is_ok() { &mut answered } else { &mut failed };
        row[step_of(ended(request))] += 1;
    }
    let most = answered.iter().chain(&failed).copied().max().unwrap_or_default();
    let mut marks = String::new();
    for (at, name) in events {
        // A label that is still under the one before moves to the right of it.
        let gap = step_of(*at).saturating_sub(marks.chars().count()).max(usize::from(!marks.is_empty()));
        marks.extend([&" ".repeat(gap), "▲ ", name]);
    }
    screen::verbatim("          a column is 100 ms");
    screen::verbatim(&format!("answered  {}", sparkline(&answered, most)));
    screen::verbatim(&format!("failed    {}", sparkline(&failed, most)));
    screen::paragraph(&format!("          {marks}"));
}

/// A row of bars; anything above 0 shows.
fn sparkline(counts: &[usize], most: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |count: &usize| match count {
        0 => '·',
        count => BARS[((count * BARS.len()).div_ceil(most) - 1).min(BARS.len() - 1)],
    };
    counts.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_every_failure() {
        assert_eq!(sparkline(&[0, 1, 40, 80], 80), "·▁▄█");
        assert_eq!(sparkline(&[0, 0], 0), "··");
    }
}
