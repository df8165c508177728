//! The paths of the API and what they do. The `OpenAPI` document comes from the same list.

#![expect(unused_qualifications, reason = "in the code that utoipa generates")]

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::HttpBody,
    extract::{DefaultBodyLimit, FromRef, FromRequest, FromRequestParts, Request, State},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use utoipa::{OpenApi, openapi};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    control::{Control, Upgrader},
    error::ApiError,
    explain::{Explanation, Flow},
    types::{Change, Detached, Drain, ErrorBody, Removal, Service, Stats, Status, Upgrade, Upgrading, Weight},
};
use crate::{config::raw, metrics};

/// Largest body of a request, bytes. A service with a thousand backends takes a tenth of it.
const MAX_BODY: usize = 1 << 20;

type Shared = State<Arc<dyn Control>>;
type Answer<T> = Result<Body<T>, ApiError>;

/// JSON in and out, with this API's errors.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
struct Body<T>(T);

/// Parts of the path, with this API's errors.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
struct Path<T>(T);

/// What follows the path's question mark, with this API's errors.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
struct Query<T>(T);

/// JSON in that may be left out.
struct OptionalBody<T>(Option<T>);

#[derive(OpenApi)]
#[openapi(info(title = "Weir", description = "The API of the Weir daemon, over its Unix socket."))]
struct Document;

/// What requests ask.
#[derive(Clone, FromRef)]
pub struct Daemon {
    /// The controller.
    pub control: Arc<dyn Control>,
    /// What the daemon itself becomes.
    pub upgrader: Arc<dyn Upgrader>,
}

/// Everything the socket serves.
pub fn router(daemon: Daemon) -> Router {
    let (router, _) = documented().split_for_parts();
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon)
}

/// The `OpenAPI` document of [`router`].
#[must_use]
pub fn document() -> openapi::OpenApi {
    documented().into_openapi()
}

fn documented() -> OpenApiRouter<Daemon> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(stats))
        .routes(routes!(services, add_service))
        .routes(routes!(service, remove_service))
        .routes(routes!(add_backend))
        .routes(routes!(remove_backend))
        .routes(routes!(set_weight))
        .routes(routes!(drain))
        .routes(routes!(undrain))
        .routes(routes!(explain))
        .routes(routes!(detach))
        .routes(routes!(upgrade))
        .routes(routes!(prometheus))
        .routes(routes!(openapi_document))
}

/// What the daemon is, where it is attached and how full its tables are
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(control): Shared) -> Answer<Status> {
    Ok(Body(control.status().await?))
}

/// Every counter at one moment
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = Stats)))]
async fn stats(State(control): Shared) -> Answer<Stats> {
    Ok(Body(control.stats().await?))
}

/// Every service with its backends
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Vec<Service>)))]
async fn services(State(control): Shared) -> Answer<Vec<Service>> {
    Ok(Body(control.services().await?))
}

/// Add a service with its backends
#[utoipa::path(post, path = "/v1/services", request_body = raw::Service, responses(
    (status = 200, body = Change),
    (status = 409, description = "Its name or its address, port and protocol are taken", body = ErrorBody),
    (status = 422, description = "It breaks a rule", body = ErrorBody),
))]
async fn add_service(State(control): Shared, Body(service): Body<raw::Service>) -> Answer<Change> {
    Ok(Body(control.add_service(service).await?))
}

/// A service with its backends
#[utoipa::path(get, path = "/v1/services/{service}", responses(
    (status = 200, body = Service),
    (status = 404, description = "No such service", body = ErrorBody),
), params(("service" = String, Path, description = "Name of the service")))]
async fn service(State(control): Shared, Path(name): Path<String>) -> Answer<Service> {
    Ok(Body(control.service(&name).await?))
}

/// Remove a service with its backends
#[utoipa::path(delete, path = "/v1/services/{service}", responses(
    (status = 200, body = Change),
    (status = 404, description = "No such service", body = ErrorBody),
), params(("service" = String, Path, description = "Name of the service")))]
async fn remove_service(State(control): Shared, Path(name): Path<String>) -> Answer<Change> {
    Ok(Body(control.remove_service(&name).await?))
}

/// Add a backend to a service
#[utoipa::path(post, path = "/v1/services/{service}/backends", request_body = raw::Backend, responses(
    (status = 200, body = Change),
    (status = 404, description = "No such service", body = ErrorBody),
    (status = 409, description = "Its name is taken", body = ErrorBody),
    (status = 422, description = "It breaks a rule", body = ErrorBody),
), params(("service" = String, Path, description = "Name of the service")))]
async fn add_backend(
    State(control): Shared,
    Path(service): Path<String>,
    Body(backend): Body<raw::Backend>,
) -> Answer<Change> {
    Ok(Body(control.add_backend(&service, backend).await?))
}

/// Remove a backend; it goes on serving its old flows until the last one has ended
#[utoipa::path(delete, path = "/v1/services/{service}/backends/{backend}", responses(
    (status = 200, body = Change),
    (status = 404, description = "No such service or backend", body = ErrorBody),
), params(
    ("service" = String, Path, description = "Name of the service"),
    ("backend" = String, Path, description = "Name of the backend"),
    ("now" = Option<bool>, Query, description = "Don't wait: its old flows count as gone at once"),
))]
async fn remove_backend(
    State(control): Shared,
    Path((service, backend)): Path<(String, String)>,
    Query(Removal { now }): Query<Removal>,
) -> Answer<Change> {
    Ok(Body(control.remove_backend(&service, &backend, now).await?))
}

/// Set the weight of a backend
#[utoipa::path(put, path = "/v1/services/{service}/backends/{backend}/weight", request_body = Weight, responses(
    (status = 200, body = Change),
    (status = 404, description = "No such service or backend", body = ErrorBody),
    (status = 422, description = "The weight is out of range", body = ErrorBody),
), params(
    ("service" = String, Path, description = "Name of the service"),
    ("backend" = String, Path, description = "Name of the backend"),
))]
async fn set_weight(
    State(control): Shared,
    Path((service, backend)): Path<(String, String)>,
    Body(Weight { weight }): Body<Weight>,
) -> Answer<Change> {
    Ok(Body(control.set_weight(&service, &backend, weight).await?))
}

/// Let a backend take no new flows
#[utoipa::path(post, path = "/v1/services/{service}/backends/{backend}/drain", request_body = Option<Drain>, responses(
    (status = 200, body = Change),
    (status = 404, description = "No such service or backend", body = ErrorBody),
    (status = 422, description = "The deadline is out of range", body = ErrorBody),
), params(
    ("service" = String, Path, description = "Name of the service"),
    ("backend" = String, Path, description = "Name of the backend"),
))]
async fn drain(
    State(control): Shared,
    Path((service, backend)): Path<(String, String)>,
    OptionalBody(drain): OptionalBody<Drain>,
) -> Answer<Change> {
    let deadline = drain.unwrap_or_default().deadline_ms.map(Duration::from_millis);
    Ok(Body(control.drain(&service, &backend, deadline).await?))
}

/// Let a draining backend take new flows again
#[utoipa::path(post, path = "/v1/services/{service}/backends/{backend}/undrain", responses(
    (status = 200, body = Change),
    (status = 404, description = "No such service or backend", body = ErrorBody),
), params(
    ("service" = String, Path, description = "Name of the service"),
    ("backend" = String, Path, description = "Name of the backend"),
))]
async fn undrain(State(control): Shared, Path((service, backend)): Path<(String, String)>) -> Answer<Change> {
    Ok(Body(control.undrain(&service, &backend).await?))
}

/// What the loaded program does with the packets of a flow, step by step; it changes nothing that real traffic sees
#[utoipa::path(get, path = "/v1/explain", params(Flow), responses(
    (status = 200, body = Explanation),
    (status = 409, description = "The program is not attached", body = ErrorBody),
    (status = 422, description = "The addresses are of different families", body = ErrorBody),
))]
async fn explain(State(control): Shared, Query(flow): Query<Flow>) -> Answer<Explanation> {
    Ok(Body(control.explain(flow).await?))
}

/// Detach from every interface, remove the pins and stop the daemon
#[utoipa::path(post, path = "/v1/detach", responses((status = 200, body = Detached)))]
async fn detach(State(control): Shared) -> Answer<Detached> {
    Ok(Body(control.detach().await?))
}

/// Become another binary, in place; `last_upgrade` of the status tells how it ended
#[utoipa::path(post, path = "/v1/upgrade", request_body = Upgrade, responses(
    (status = 200, body = Upgrading),
    (status = 409, description = "The binary does not pass its preflight; the daemon goes on as it was", body = ErrorBody),
    (status = 422, description = "The binary is none that the daemon executes", body = ErrorBody),
))]
async fn upgrade(
    State(upgrader): State<Arc<dyn Upgrader>>,
    Body(Upgrade { binary }): Body<Upgrade>,
) -> Answer<Upgrading> {
    Ok(Body(upgrader.upgrade(&binary).await?))
}

/// The metrics, in Prometheus' text format
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, body = String, content_type = metrics::CONTENT_TYPE),
))]
async fn prometheus(State(control): Shared) -> Response {
    metrics::respond(&*control).await
}

/// This document
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, content_type = "application/json")))]
async fn openapi_document() -> Response {
    axum::Json(document()).into_response()
}

async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no {}; see /v1/openapi.json", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} can't be asked to {method}", uri.path()))
}

impl<T, S> FromRequest<S> for OptionalBody<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if request.body().is_end_stream() {
            return Ok(Self(None));
        }
        let Body(body) = Body::from_request(request, state).await?;
        Ok(Self(Some(body)))
    }
}

impl<T: serde::Serialize> IntoResponse for Body<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}
