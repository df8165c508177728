//! What is left of backends that the configuration no longer has.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::desired::BackendKey;

/// What old flows may still need of backends that are leaving or have left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Backends whose flows are not waited for. Their entries say so once it is written.
    pub ended: BTreeSet<BackendKey>,
    /// Ids of leaving backends that no slot and no flow names: their entries can go.
    pub released: BTreeSet<u32>,
    /// Ids without an entry that entries of the flow table may still name, and since when (monotonic clock): nobody is
    /// given them.
    pub resting: BTreeMap<u32, Duration>,
}
