//! The daemon's socket, command line and metrics, against a real server with a made-up controller behind it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "all of this is a test")]

mod api;
mod cli;
mod drain;
mod explain;
mod metrics;
mod support;
