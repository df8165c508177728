//! A client that asks at a steady pace, one new connection for each request, and keeps the story of every one.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use crate::{Lab, netns::Netns};

/// A request that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was made.
    pub at: Instant,
    /// How long it took, until the answer was complete or it failed.
    pub took: Duration,
    /// The backend that answered, or why none did.
    pub answer: Result<String, String>,
}

/// The requests of a run, in the order in which they were made.
#[derive(Clone, Debug)]
pub struct Story(pub Vec<Request>);

impl Story {
    /// Requests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Request> {
        self.0.iter().filter(|request| request.answer.is_err())
    }

    /// Answers of `backend` to requests made at `since` or later.
    #[must_use]
    pub fn answers_of(&self, backend: &str, since: Instant) -> usize {
        self.0.iter().filter(|request| request.at >= since && request.answer.as_deref() == Ok(backend)).count()
    }
}

/// Clients at work, until [`Steady::finish`].
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Request>>>,
}

impl Steady {
    /// Starts `workers` in each of the lab's clients; each makes a request to `target` every `pause`, or as soon as
    /// the one before has ended.
    #[must_use]
    pub fn start(lab: &Lab, target: SocketAddr, workers: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |client: &Netns| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                client.enter(|| work(target, pause, &stop)).unwrap_or_else(|error| vec![unstarted(&error)])
            })
        };
        let threads = lab.clients().iter().flat_map(|client| (0..workers).map(|_| start(client)).collect::<Vec<_>>());
        Self { threads: threads.collect(), stop }
    }

    /// Ends the run once every request that is under way has ended.
    ///
    /// # Errors
    /// A worker panicked.
    pub fn finish(mut self) -> Result<Story> {
        self.stop.store(true, Ordering::Relaxed);
        let mut requests = Vec::new();
        for thread in self.threads.drain(..) {
            requests.extend(thread.join().map_err(|_| anyhow!("a client panicked"))?);
        }
        requests.sort_by_key(|request| request.at);
        Ok(Story(requests))
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn unstarted(error: &anyhow::Error) -> Request {
    Request { at: Instant::now(), took: Duration::ZERO, answer: Err(format!("{error:#}")) }
}

fn work(target: SocketAddr, pause: Duration, stop: &AtomicBool) -> Vec<Request> {
    let mut requests = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let at = Instant::now();
        let answer = get(target, at + PATIENCE).map_err(|error| error.to_string());
        let took = at.elapsed();
        requests.push(Request { at, took, answer });
        thread::sleep(pause.saturating_sub(took));
    }
    requests
}

/// Asks for `/`: the backend's name, which is the body of the answer.
fn get(target: SocketAddr, deadline: Instant) -> io::Result<String> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&target, left())?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut buffer)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if !head.starts_with("HTTP/1.1 200 ") || body.is_empty() {
        return Err(io::Error::other(format!("answer {:?}", head.lines().next().unwrap_or_default())));
    }
    Ok(body.trim_end().to_owned())
}
