//! Plots of reports, as SVG.
//!
//! - `source`: which benchmark a file is a report of; `packet`, `wire`, `peers`, `control`: what is shown of each.
//! - `bars`, `lines`: the two kinds of plots; `canvas`: what they have in common.

pub mod bars;
pub mod canvas;
pub mod control;
pub mod lines;
pub mod packet;
pub mod peers;
pub mod source;
pub mod wire;

/// A plot, drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Name of its file.
    pub name: &'static str,
    /// The file: SVG.
    pub svg: String,
}
