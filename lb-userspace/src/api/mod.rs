//! The daemon's API: HTTP and JSON over a Unix socket, described by an OpenAPI document.

pub mod control;
pub mod types;
