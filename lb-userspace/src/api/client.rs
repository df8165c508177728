//! The command line's end of the socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Bytes, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::explain::{Explanation, Flow};
use super::types::{Change, Detached, Drain, ErrorBody, Service, Stats, Status, Upgrade, Upgrading, Weight, millis};
use crate::config::raw;

/// Time within which the daemon must have answered. A change waits for the kernel, which takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer that is read, bytes. The daemon isn't suspected of anything; a wrong socket is.
const MAX_ANSWER: usize = 256 << 20;

/// What need not be escaped in a part of a path (RFC 3986, "unreserved").
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Talks to the daemon behind a socket. Every call makes its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why there is no answer, or what was wrong with what was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}: is `weir run` running?", .0.display())]
    NoDaemon(PathBuf),
    /// The socket belongs to somebody else.
    #[error("not allowed to talk to the daemon at {}: only its owner and its group are (try with sudo)", .0.display())]
    NotAllowed(PathBuf),
    /// The daemon was too slow.
    #[error("the daemon at {} has not answered within {} s", .0.display(), .1.as_secs_f32())]
    TimedOut(PathBuf, Duration),
    /// The daemon has no such service or backend.
    #[error("{}", refusal(.0))]
    NotFound(ErrorBody),
    /// The daemon refused; one line for each problem.
    #[error("{}", refusal(.0))]
    Refused(ErrorBody),
    /// The connection failed.
    #[error("talking to {}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What answers is no Weir, or another version of it.
    #[error("{} does not answer like a Weir daemon", socket.display())]
    Foreign {
        /// The socket.
        socket: PathBuf,
        /// What could not be understood.
        source: serde_json::Error,
    },
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client of the daemon at `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: TIMEOUT }
    }

    /// The same client, waiting at most `timeout` for each answer (30 s by default).
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// See [`Control::status`](super::control::Control::status).
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// See [`Control::stats`](super::control::Control::stats).
    pub async fn stats(&self) -> Result<Stats> {
        self.get("/v1/stats").await
    }

    /// See [`Control::services`](super::control::Control::services).
    pub async fn services(&self) -> Result<Vec<Service>> {
        self.get("/v1/services").await
    }

    /// See [`Control::service`](super::control::Control::service).
    pub async fn service(&self, name: &str) -> Result<Service> {
        self.get(&service_path(name)).await
    }

    /// See [`Control::add_service`](super::control::Control::add_service).
    pub async fn add_service(&self, service: &raw::Service) -> Result<Change> {
        self.ask(Method::POST, "/v1/services", Some(service)).await
    }

    /// See [`Control::remove_service`](super::control::Control::remove_service).
    pub async fn remove_service(&self, name: &str) -> Result<Change> {
        self.ask(Method::DELETE, &service_path(name), NOTHING).await
    }

    /// See [`Control::add_backend`](super::control::Control::add_backend).
    pub async fn add_backend(&self, service: &str, backend: &raw::Backend) -> Result<Change> {
        self.ask(Method::POST, &format!("{}/backends", service_path(service)), Some(backend)).await
    }

    /// See [`Control::remove_backend`](super::control::Control::remove_backend).
    pub async fn remove_backend(&self, service: &str, backend: &str, now: bool) -> Result<Change> {
        let query = if now { "?now=true" } else { "" };
        self.ask(Method::DELETE, &(backend_path(service, backend) + query), NOTHING).await
    }

    /// See [`Control::set_weight`](super::control::Control::set_weight).
    pub async fn set_weight(&self, service: &str, backend: &str, weight: u16) -> Result<Change> {
        let path = format!("{}/weight", backend_path(service, backend));
        self.ask(Method::PUT, &path, Some(&Weight { weight })).await
    }

    /// See [`Control::drain`](super::control::Control::drain).
    pub async fn drain(&self, service: &str, backend: &str, deadline: Option<Duration>) -> Result<Change> {
        let path = format!("{}/drain", backend_path(service, backend));
        self.ask(Method::POST, &path, Some(&Drain { deadline_ms: deadline.map(millis) })).await
    }

    /// See [`Control::undrain`](super::control::Control::undrain).
    pub async fn undrain(&self, service: &str, backend: &str) -> Result<Change> {
        self.ask(Method::POST, &format!("{}/undrain", backend_path(service, backend)), NOTHING).await
    }

    /// See [`Control::explain`](super::control::Control::explain).
    pub async fn explain(&self, flow: &Flow) -> Result<Explanation> {
        let Flow { source, destination, protocol } = flow;
        let protocol = super::types::word(protocol);
        let query = [("source", source.to_string()), ("destination", destination.to_string()), ("protocol", protocol)];
        let query = query.map(|(key, value)| format!("{key}={}", escape(&value))).join("&");
        self.get(&format!("/v1/explain?{query}")).await
    }

    /// See [`Control::detach`](super::control::Control::detach).
    pub async fn detach(&self) -> Result<Detached> {
        self.ask(Method::POST, "/v1/detach", NOTHING).await
    }

    /// See [`Upgrader::upgrade`](super::control::Upgrader::upgrade).
    pub async fn upgrade(&self, binary: &Path) -> Result<Upgrading> {
        self.ask(Method::POST, "/v1/upgrade", Some(&Upgrade { binary: binary.to_owned() })).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, NOTHING).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            self.understand(response).await
        };
        timeout(self.timeout, exchange).await.map_err(|_| ClientError::TimedOut(self.socket.clone(), self.timeout))?
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Response<Incoming>> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| self.broken(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.broken(error))?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        // It ends with the connection; its errors reach the request too.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }

    async fn understand<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T> {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })?.to_bytes();
        let foreign = |source| ClientError::Foreign { socket: self.socket.clone(), source };
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(foreign),
            StatusCode::NOT_FOUND => Err(ClientError::NotFound(serde_json::from_slice(&body).map_err(foreign)?)),
            _ => Err(ClientError::Refused(serde_json::from_slice(&body).map_err(foreign)?)),
        }
    }

    fn no_connection(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon(self.socket.clone()),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(self.socket.clone()),
            _ => self.broken(error),
        }
    }

    fn broken(&self, error: impl std::error::Error + Send + Sync + 'static) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source: Box::new(error) }
    }
}

const NOTHING: Option<&()> = None;

fn service_path(service: &str) -> String {
    format!("/v1/services/{}", escape(service))
}

fn backend_path(service: &str, backend: &str) -> String {
    format!("{}/backends/{}", service_path(service), escape(backend))
}

fn escape(part: &str) -> impl std::fmt::Display {
    utf8_percent_encode(part, ESCAPED)
}

/// The daemon's line, and the problems behind it where there are several.
fn refusal(body: &ErrorBody) -> String {
    match body.problems.as_slice() {
        [] | [_] => body.error.clone(),
        many => format!("{}: {}", body.error, many.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_not_for_us_is_told_apart_from_no_daemon() {
        let client = Client::new(Path::new("/run/weir/main.sock"));
        let of = |kind: io::ErrorKind| client.no_connection(kind.into()).to_string();
        assert_eq!(of(io::ErrorKind::NotFound), of(io::ErrorKind::ConnectionRefused));
        assert_eq!(of(io::ErrorKind::NotFound), "no daemon answers at /run/weir/main.sock: is `weir run` running?");
        assert_eq!(
            of(io::ErrorKind::PermissionDenied),
            "not allowed to talk to the daemon at /run/weir/main.sock: only its owner and its group are (try with sudo)"
        );
    }

    #[test]
    fn parts_of_a_path_are_escaped() {
        assert_eq!(backend_path("a/b", "[::1]:80"), "/v1/services/a%2Fb/backends/%5B%3A%3A1%5D%3A80");
        assert_eq!(service_path("web-1.example_x~"), "/v1/services/web-1.example_x~");
    }
}
