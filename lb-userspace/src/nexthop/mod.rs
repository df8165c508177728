//! Next hops, resolved from the kernel's routes and neighbours and kept current.
//!
//! - [`view`]: a snapshot of links, routes and neighbours, and what follows from it for an address. Pure.
//! - [`refresh`]: which neighbours the kernel must be asked about again, and when. Pure.
//! - [`monitor`]: reads the kernel's tables over rtnetlink and follows their changes.
//!
//! The packet path never looks at a route: the controller writes what it finds here into the tables.

pub mod monitor;
mod parse;
pub mod refresh;
pub mod view;

pub use monitor::{MonitorError, NetworkMonitor};
pub use view::{ClientRoute, NetworkView, Resolution};
