//! What does not fit.

use lb_common::fill::FillError;
use thiserror::Error;

/// A table has no room for what is wanted. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Full {
    /// No gap in the slot array is large enough.
    #[error(
        "service \"{service}\" needs {needed} slots in a row, and the largest gap in the table of {capacity} slots has \
         {largest}; remove a service first (its slots are free once that is done), or start anew after `weir detach` \
         with a larger node.tables.slots"
    )]
    Slots {
        /// Name of the service.
        service: String,
        /// Slots that it needs.
        needed: u32,
        /// Slots of the largest gap.
        largest: u32,
        /// Slots of the whole table.
        capacity: u32,
    },
    /// Every service has its id, and there are no more.
    #[error("the table of services is full ({capacity} services); remove one first")]
    Services {
        /// Services of both families that there are ids for.
        capacity: u32,
    },
    /// Every backend has its id, and there are no more.
    #[error(
        "the table of backends is full ({capacity} backends, and those that were removed count until they have left); \
         remove some and wait until they have left, or start anew after `weir detach` with a larger node.tables.backends"
    )]
    Backends {
        /// Backends that there are ids for.
        capacity: u32,
    },
    /// The host has more routes than the table.
    #[error(
        "`nat` services need the host's routes towards clients, {needed} of one address family, and their table has \
         room for {capacity}; start anew after `weir detach` with a larger node.tables.routes"
    )]
    Routes {
        /// Routes and on-link neighbours that there are.
        needed: usize,
        /// Routes of a family that there is room for.
        capacity: u32,
    },
    /// The slots of a service can't be given to its backends.
    #[error("the {slots} slots of service \"{service}\" can't be shared out: {error}")]
    Fill {
        /// Name of the service.
        service: String,
        /// Its slots.
        slots: u32,
        /// Why not.
        error: FillError,
    },
}
