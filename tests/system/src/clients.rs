//! Clients of the lab's line server (TCP) and echo server (UDP), both of which answer with the backend's name, a blank,
//! and what was sent.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weir_lab::Netns;

/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(2);

/// A TCP connection that stays open.
#[derive(Debug)]
pub struct Lines {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Lines {
    /// Connects from inside `client`.
    ///
    /// # Errors
    /// Nobody answers within two seconds.
    pub fn connect(client: &Netns, target: SocketAddr) -> Result<Self> {
        let stream = client.enter(|| TcpStream::connect_timeout(&target, PATIENCE))?;
        let stream = stream.with_context(|| format!("connect to {target}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { writer: stream.try_clone()?, reader: BufReader::new(stream) })
    }

    /// Its own end.
    ///
    /// # Errors
    /// The system can't tell.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.writer.local_addr()
    }

    /// Sends `line` (without its end): the name of the backend that sends it back.
    ///
    /// # Errors
    /// The connection is broken, nothing comes within two seconds, or it is not what was sent.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.writer.write_all(format!("{line}\n").as_bytes())?;
        self.answer(line)
    }

    /// Sends `count` different lines of a kilobyte while it reads the answers: the name of the backend.
    ///
    /// # Errors
    /// As for [`Lines::ask`], of any of them; or they come from several backends.
    pub fn ask_much(&mut self, count: u32) -> Result<String> {
        let line = |n: u32| format!("{n:0>1000}");
        let mut writer = self.writer.try_clone()?;
        let sending = std::thread::spawn(move || -> io::Result<()> {
            (0..count).try_for_each(|n| writer.write_all(format!("{}\n", line(n)).as_bytes()))
        });
        let mut name = None;
        for n in 0..count {
            let answered = self.answer(&line(n))?;
            ensure!(*name.get_or_insert_with(|| answered.clone()) == answered, "line {n} comes from {answered}");
        }
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        name.context("nothing was asked")
    }

    fn answer(&mut self, line: &str) -> Result<String> {
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        name_of(&answer, &format!("{line}\n"))
    }
}

/// A UDP socket that is connected, so that only answers from the address that it asks are taken.
#[derive(Debug)]
pub struct Echo(UdpSocket);

impl Echo {
    /// Opens a socket inside `client` to `target`, with a source port of its own.
    pub fn open(client: &Netns, target: SocketAddr) -> Result<Self> {
        let any = match target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = client.enter(|| UdpSocket::bind(any))??;
        client.enter(|| socket.connect(target))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Sends `payload` bytes: the name of the backend that sends them back.
    ///
    /// # Errors
    /// Nothing comes within two seconds, or it is not what was sent.
    pub fn ask(&self, payload: usize) -> Result<String> {
        let sent = "x".repeat(payload);
        self.0.send(sent.as_bytes())?;
        let mut buffer = vec![0; 65536];
        let length = self.0.recv(&mut buffer).context("no echo")?;
        name_of(&String::from_utf8_lossy(&buffer[..length]), &sent)
    }
}

/// The name in an answer to `sent`.
fn name_of(answer: &str, sent: &str) -> Result<String> {
    let whole = answer.split_once(' ').filter(|(_, rest)| *rest == sent);
    let (name, _) = whole.with_context(|| format!("{} bytes came back as {answer:?}", sent.len()))?;
    Ok(name.to_owned())
}
