//! One check of one backend.

use std::{io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use socket2::SockRef;
use tokio::{net::TcpSocket, time};

/// How a backend is checked. A trait, so that tests can say what backends answer.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// Checks `address`, for at most `timeout`; an error says in words why the check failed.
    async fn check(&self, address: SocketAddr, timeout: Duration) -> Result<(), String>;
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
    async fn check(&self, address: SocketAddr, timeout: Duration) -> Result<(), String> {
        match time::timeout(timeout, connect(address)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(reason(&error)),
            Err(_) => Err(format!("timed out after {timeout:?}")),
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Closing sends a reset.
    socket.set_zero_linger()?;
    // The ACK of the answer to the SYN waits for data to go with, and the reset comes first.
    SockRef::from(&socket).set_tcp_quickack(false)?;
    socket.connect(address).await.map(drop)
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

    #[tokio::test]
    async fn an_open_port_answers_and_its_application_does_not_notice() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(local).unwrap();
            listener.set_nonblocking(true).unwrap();
            assert_eq!(TcpProbe.check(listener.local_addr().unwrap(), SECOND).await, Ok(()));
            let accepted = listener.accept().map(drop).map_err(|error| error.kind());
            assert_eq!(accepted, Err(io::ErrorKind::WouldBlock), "the connection reached the application");
        }
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(TcpProbe.check(address, SECOND).await, Err("connection refused".to_owned()));
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
        assert_eq!(TcpProbe.check(address, timeout).await, Err("timed out after 200ms".to_owned()));
    }
}
