//! The daemon's API: HTTP and JSON over a Unix socket, described by an `OpenAPI` document.
//!
//! [`control`] is what the API asks of the controller, [`types`] what it carries, [`routes`] the paths; [`server`] and
//! [`client`] are the two ends of the socket.

pub mod client;
pub mod control;
mod error;
pub mod routes;
mod schema;
pub mod server;
pub mod types;

pub use server::Server;

use std::{future::Future, io, time::Duration};

use axum::{Router, serve::Listener};

/// How long requests under way may take once the daemon is to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Serves `router` until `shutdown` is ready, then finishes the requests under way, within [`GRACE`].
pub(crate) async fn serve_until<L>(
    listener: L,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let graceful = axum::serve(listener, router).with_graceful_shutdown(async {
        shutdown.await;
        // Fails only if nobody waits for the grace to pass any more.
        let _ = stop.send(());
    });
    tokio::select! {
        served = graceful.into_future() => served,
        () = async { drop(stopped.await); tokio::time::sleep(GRACE).await } => Ok(()),
    }
}
