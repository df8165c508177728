//! A TCP line server and a UDP echo server: a thread of this process whose sockets are the backend's.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime,
    sync::oneshot,
    task::{self, JoinSet},
};

use crate::netns::Netns;

/// The TCP line server: each line comes back with the backend's name and a blank in front.
pub const TCP_LINE_PORT: u16 = TCP_LINE_PORTS[0];
/// Both ports of the line server, for two services that share no port of a backend.
pub const TCP_LINE_PORTS: [u16; 2] = [7000, 7001];
/// The UDP echo server: each datagram comes back with the backend's name and a blank in front.
pub const UDP_ECHO_PORT: u16 = 7000;

/// Both servers; dropped, they and their connections end as with a killed process: its kernel closes what was open.
#[derive(Debug)]
pub(super) struct Who {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Who {
    /// Serves lines on every address and echoes on the addresses `udp`.
    ///
    /// One UDP socket for each address: an answer must come from the address that was asked, VIP or not.
    pub(super) fn start(name: &str, netns: &Netns, udp: &[IpAddr]) -> Result<Self> {
        let sockets = netns.enter(|| Sockets::bind(udp))??;
        let (stop, stopped) = oneshot::channel();
        let (started, outcome) = oneshot::channel();
        let name = name.to_owned();
        let thread = thread::spawn(move || run(name, sockets, started, stopped));
        let who = Self { stop: Some(stop), thread: Some(thread) };
        outcome.blocking_recv().map_err(|_| anyhow!("the line server panicked"))??;
        Ok(who)
    }
}

impl Drop for Who {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic there has been printed already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Sockets {
    lines: Vec<StdTcpListener>,
    echoes: Vec<StdUdpSocket>,
}

impl Sockets {
    fn bind(udp: &[IpAddr]) -> Result<Self> {
        let lines = TCP_LINE_PORTS.map(|port| {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            let listener = StdTcpListener::bind(any).context("bind the line server")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let echoes = udp.iter().map(|address| {
            let socket = StdUdpSocket::bind((*address, UDP_ECHO_PORT)).with_context(|| format!("bind {address}"))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Ok(Self { lines: lines.into_iter().collect::<Result<_>>()?, echoes: echoes.collect::<Result<_>>()? })
    }
}

/// Serves until `stopped`; whether it could begin goes to `started`.
fn run(name: String, sockets: Sockets, started: oneshot::Sender<Result<()>>, stopped: oneshot::Receiver<()>) {
    let runtime = match runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        // Whoever started it waits for the answer.
        Err(error) => return drop(started.send(Err(error.into()))),
    };
    runtime.block_on(async {
        let name: Arc<str> = name.into();
        // Dropped at the end, and every connection with it.
        let mut servers = JoinSet::new();
        let spawned = serve(&name, sockets, &mut servers);
        if started.send(spawned).is_ok() {
            // The sender is only ever dropped.
            let _ = stopped.await;
        }
    });
}

fn serve(name: &Arc<str>, sockets: Sockets, servers: &mut JoinSet<()>) -> Result<()> {
    for listener in sockets.lines {
        servers.spawn(accept(Arc::clone(name), TcpListener::from_std(listener)?));
    }
    for socket in sockets.echoes {
        servers.spawn(echo(Arc::clone(name), UdpSocket::from_std(socket)?));
    }
    Ok(())
}

async fn echo(name: Arc<str>, socket: UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
        // As with any datagram, the client notices when it is lost.
        let _ = socket.send_to(&answer, client).await;
    }
}

async fn accept(name: Arc<str>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(lines(Arc::clone(&name), stream))),
            Err(_) => task::yield_now().await,
        }
        // Those that have ended.
        while connections.try_join_next().is_some() {}
    }
}

/// Answers line by line until the client hangs up.
async fn lines(name: Arc<str>, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(stream.read_until(b'\n', &mut line).await, Ok(length) if length > 0) {
        let answer = [name.as_bytes(), b" ", &line].concat();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        line.clear();
    }
}
