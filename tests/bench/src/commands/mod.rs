//! What `cargo xtask bench` can do, one module each.

pub mod control;
pub mod packet;
pub mod peers;
pub mod plot;
pub mod wire;
