//! Prometheus metrics: everything that `weir status` and `weir stats` know.

mod families;
mod server;

pub use families::encode;
pub use server::Server;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::api::control::Control;

/// Media type of what [`encode`] makes.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Answers a scrape.
pub(crate) async fn respond(control: &dyn Control) -> Response {
    match scrape(control).await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn scrape(control: &dyn Control) -> anyhow::Result<String> {
    Ok(encode(&control.status().await?, &control.services().await?, &control.stats().await?)?)
}
