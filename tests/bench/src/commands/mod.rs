//! What `cargo xtask bench` can measure, one module each.

pub mod packet;
pub mod peers;
pub mod wire;
