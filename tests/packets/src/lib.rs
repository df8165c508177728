//! Packets for tests: what Weir is given, and what it must make of it.
//!
//! - [`build`] writes frames down by their headers, [`random`] breaks them.
//! - [`world`] is a configuration as a test states it; [`tables`] turns it into map contents, for the host and the
//!   kernel alike.
//! - [`oracle`] says what must become of a frame in a world, with etherparse and full checksums, sharing no packet code
//!   with Weir.
//! - [`fixtures`] is the table of cases that every build of the packet path must get right.
//! - [`scheduled`] is what schedulers must do, whichever build of the packet path does it.
//! - [`host`] runs the packet path in this process.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "only tests use this crate: a broken test description has to stop the test")]
#![expect(clippy::missing_panics_doc, reason = "as above")]

pub mod build;
pub mod fixtures;
pub mod host;
pub mod oracle;
pub mod random;
pub mod scheduled;
pub mod tables;
pub mod world;
