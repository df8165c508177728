//! One check of one backend.

use std::{io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use rustix::io::Errno;
use socket2::SockRef;
use thiserror::Error;
use tokio::{net::TcpSocket, time};

/// How a backend is checked. A trait, so that tests can say what backends answer.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// Checks `address`, for at most `timeout`.
    async fn check(&self, address: SocketAddr, timeout: Duration) -> Result<(), CheckError>;
}

/// Why a check did not succeed.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The backend failed it; why, in an operator's words.
    #[error("{0}")]
    Failed(String),
    /// This host can't check, for lack of file descriptors, ports or memory: that tells nothing of the backend.
    #[error(transparent)]
    Local(io::Error),
}

/// Whether a TCP connection can be opened.
///
/// The backend's application never hears of it: once the SYN is answered, the check sends a reset in place of the ACK
/// that would complete the handshake, so the connection does not reach the accept queue. A payment gateway then has no
/// short connections in its log, no reset to report as an error and no worker woken every two seconds, and nobody is
/// left with a socket in `TIME_WAIT`. (`HAProxy`'s checks do the same.) Should the kernel acknowledge first all the same,
/// the application sees a connection that is reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpProbe;

#[async_trait]
impl Probe for TcpProbe {
    async fn check(&self, address: SocketAddr, timeout: Duration) -> Result<(), CheckError> {
        let socket = open(address).map_err(CheckError::Local)?;
        match time::timeout(timeout, socket.connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if is_local(&error) => Err(CheckError::Local(error)),
            Ok(Err(error)) => Err(CheckError::Failed(reason(&error))),
            Err(_) => Err(CheckError::Failed(format!("timed out after {timeout:?}"))),
        }
    }
}

/// A socket to connect to `address` with.
fn open(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Closing sends a reset.
    socket.set_zero_linger()?;
    // The ACK of the answer to the SYN waits for data to go with, and the reset comes first.
    SockRef::from(&socket).set_tcp_quickack(false)?;
    Ok(socket)
}

/// Whether connecting failed for want of something on this host: memory, buffers, a free port or descriptor.
fn is_local(error: &io::Error) -> bool {
    let lacks = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::NOSPC,
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::AGAIN,
    ];
    Errno::from_io_error(error).is_some_and(|errno| lacks.contains(&errno))
}

/// In an operator's words, without the error number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What the backend at `address` is found to fail by.
    async fn failure(address: SocketAddr, timeout: Duration) -> String {
        match TcpProbe.check(address, timeout).await {
            Err(CheckError::Failed(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_this_host_lacks_is_not_the_backends_failure() {
        // Numbers of Linux on x86 and Arm: EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL; ECONNREFUSED, EHOSTUNREACH.
        for (number, local) in [(24, true), (23, true), (105, true), (12, true), (99, true), (111, false), (113, false)]
        {
            assert_eq!(is_local(&io::Error::from_raw_os_error(number)), local, "{number}");
        }
    }

    #[tokio::test]
    async fn an_open_port_answers_and_its_application_does_not_notice() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(local).unwrap();
            listener.set_nonblocking(true).unwrap();
            TcpProbe.check(listener.local_addr().unwrap(), SECOND).await.unwrap();
            let accepted = listener.accept().map(drop).map_err(|error| error.kind());
            assert_eq!(accepted, Err(io::ErrorKind::WouldBlock), "the connection reached the application");
        }
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(failure(address, SECOND).await, "connection refused");
    }

    #[tokio::test]
    async fn silence_times_out() {
        // A listener whose queue is full answers no more SYNs.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _filler = tokio::net::TcpStream::connect(address).await.unwrap();
        let timeout = Duration::from_millis(200);
        assert_eq!(failure(address, timeout).await, "timed out after 200ms");
    }
}
