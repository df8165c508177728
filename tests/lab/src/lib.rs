//! The lab: network namespaces for clients, a router, the balancer and backends, with real servers (nginx) and real
//! clients (curl, wrk).
//!
//! ```text
//!   c1 .. cN        router         lb (Weir)       b1 .. bN (nginx)
//!      |            |    |            |               |
//!      +--- brc ----+    +--- br0 ----+----- br0 -----+
//! ```
//!
//! Clients reach the VIPs by way of the router, which routes them to the balancer. See [`addresses`] for who has which
//! address. A lab needs root and changes nothing outside its own namespaces; it is removed when it is dropped.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use weir_lab::{Family, Lab, Mode, client::curl};
//!
//! let lab = Lab::builder().backends(4).mode(Mode::L2).weir("target/debug/weir".as_ref()).build()?;
//! let weir = lab.weir(&lab.config(&[lab.service("web", Family::V4)]))?;
//! println!("{} answers", curl::get(lab.client(), "http://10.9.0.1/")?);
//! println!("{}", weir.cli(&["stats"])?);
//! # Ok(())
//! # }
//! ```

pub mod addresses;
mod cleanup;
pub mod client;
mod command;
pub mod config;
mod demo;
mod lab;
mod mode;
mod netns;
mod process;
pub mod requirements;
mod server;
mod topology;
mod weir;

pub use self::{
    addresses::Family,
    cleanup::remove_on_signals,
    command::{LabCommand, lab},
    demo::demo,
    lab::{Lab, LabBuilder},
    mode::Mode,
    netns::Netns,
    process::Process,
    server::{Backend, HTTP_PORTS, TCP_LINE_PORT, TCP_LINE_PORTS, UDP_ECHO_PORT},
    weir::WeirDaemon,
};
