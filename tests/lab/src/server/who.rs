//! A TCP line server and a UDP echo server, as threads of this process whose sockets are the backend's.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// The TCP line server: each line comes back with the backend's name and a blank in front.
pub const TCP_LINE_PORT: u16 = 7000;
/// The UDP echo server: each datagram comes back with the backend's name and a blank in front.
pub const UDP_ECHO_PORT: u16 = 7000;

/// How long a thread may take to notice that it is to end.
const TICK: Duration = Duration::from_millis(50);

/// Both servers; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Who {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Who {
    /// Serves lines on every address and echoes on the addresses `udp`.
    ///
    /// One UDP socket for each address: an answer must come from the address that was asked, VIP or not.
    pub(super) fn start(name: &str, netns: &Netns, udp: &[IpAddr]) -> Result<Self> {
        let (listener, sockets) = netns.enter(|| -> Result<_> {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), TCP_LINE_PORT);
            let listener = TcpListener::bind(any).context("bind the line server")?;
            listener.set_nonblocking(true)?;
            let sockets = udp.iter().map(|address| {
                let socket = UdpSocket::bind((*address, UDP_ECHO_PORT)).with_context(|| format!("bind {address}"))?;
                socket.set_read_timeout(Some(TICK))?;
                Ok(socket)
            });
            Ok((listener, sockets.collect::<Result<Vec<_>>>()?))
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for socket in sockets {
            let (name, stop) = (name.to_owned(), Arc::clone(&stop));
            threads.push(thread::spawn(move || echo(&name, &socket, &stop)));
        }
        let (name, stopped) = (name.to_owned(), Arc::clone(&stop));
        threads.push(thread::spawn(move || accept(&name, &listener, &stopped)));
        Ok(Self { stop, threads })
    }
}

impl Drop for Who {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

fn echo(name: &str, socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // As with any datagram, the client notices when it is lost.
        let _ = socket.send_to(&answer, client);
    }
}

fn accept(name: &str, listener: &TcpListener, stop: &Arc<AtomicBool>) {
    let mut connections = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (name, stop) = (name.to_owned(), Arc::clone(stop));
                connections.push(thread::spawn(move || lines(&name, stream, &stop)));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// Answers line by line until the client hangs up or the server stops.
fn lines(name: &str, stream: TcpStream, stop: &AtomicBool) {
    let prepared = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(TICK)));
    let Ok(mut writer) = prepared.and_then(|()| stream.try_clone()) else { return };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                let answer = [name.as_bytes(), b" ", &line].concat();
                if writer.write_all(&answer).is_err() {
                    return;
                }
                line.clear();
            }
            // What has come of the line so far stays in `line`.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
