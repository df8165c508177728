//! The daemon's API: HTTP and JSON over a Unix socket, described by an `OpenAPI` document.
//!
//! [`control`] is what the API asks of the controller, [`types`] what it carries, [`routes`] the paths; [`server`] and
//! [`client`] are the two ends of the socket.

pub mod client;
pub mod control;
mod error;
pub mod explain;
pub mod routes;
mod schema;
pub mod server;
pub mod types;

pub use server::Server;

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{sync::Semaphore, time::timeout};

/// How long requests under way may take once the daemon is to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Connections that are served at the same time, at most; others wait in the kernel's queue. Each is an open file, and
/// health checks need files too.
const CONNECTIONS: usize = 32;

/// Within this time the head of a request must be there: a connection that says nothing takes the place of others.
const HEAD: Duration = Duration::from_secs(5);

/// Within this time a connection must be done with its request, which is the only one.
const EXCHANGE: Duration = Duration::from_mins(1);

/// Serves `router` until `shutdown` is ready, then finishes the requests under way, within [`GRACE`].
pub(crate) async fn serve_until<L>(
    mut listener: L,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()>
where
    L: Listener,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            () = &mut shutdown => break,
        };
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // Failing connections only concern themselves.
            drop(timeout(EXCHANGE, connection).await);
            drop(place);
        });
    }
    drop(listener);
    // Requests that take longer are given up.
    let _ = timeout(GRACE, connections.shutdown()).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use super::*;

    /// A server that says `hello`, until the test ends.
    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", routing::get(async || "hello"));
        tokio::spawn(serve_until(listener, router, std::future::pending()));
        address
    }

    /// All that comes by `stream` until it ends.
    async fn rest(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn connections_that_say_nothing_neither_pile_up_nor_last() {
        let (address, began) = (server().await, Instant::now());
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let answer = timeout(HEAD * 2, rest(asking)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
        assert!(began.elapsed() >= HEAD, "served beside {CONNECTIONS} others");
        for stream in silent {
            timeout(HEAD, rest(stream)).await.unwrap();
        }
    }
}
