//! Serves the metrics over TCP, for Prometheus to scrape.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, response::Response, routing};
use tokio::net::TcpListener;

use super::respond;
use crate::api::{control::Control, serve_until};

/// A bound listener that serves `/metrics` and nothing else.
#[derive(Debug)]
pub struct Server(TcpListener);

impl Server {
    /// Binds `address`; port 0 lets the system choose one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `shutdown` is ready and the scrapes under way are answered.
    pub async fn serve(
        self,
        control: Arc<dyn Control>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let router = Router::new().route("/metrics", routing::get(metrics)).with_state(control);
        serve_until(self.0, router, shutdown).await
    }
}

async fn metrics(State(control): State<Arc<dyn Control>>) -> Response {
    respond(&*control).await
}
