//! Who takes a new flow of a service whose scheduler does not follow the slots.

use core::borrow::Borrow as _;

use crate::{
    abi::{COMPARED_BACKENDS, NO_BACKEND, Service, SlotWord, choice},
    tables::Tables,
};

/// The backend for a new flow of `service` in `slot`; [`NO_BACKEND`] if there is none.
#[inline(always)]
pub(crate) fn choose<T: Tables>(tables: &T, service: &Service, slot: SlotWord) -> u32 {
    match service.choice {
        choice::SLOT => slot.current(),
        choice => tables.draw(service.id, choice, service.ring_length),
    }
}

/// The backend that `service` draws from the `length` entries of its ring by `choice`, any of [`choice`] but
/// [`choice::SLOT`]; [`NO_BACKEND`] if there is none.
#[inline(always)]
pub fn draw<T: Tables>(tables: &T, service: u32, choice: u32, length: u32) -> u32 {
    match choice {
        choice::TURN => match tables.turn(service).checked_rem(length) {
            Some(place) => tables.ring(service, place),
            None => NO_BACKEND,
        },
        choice::RANDOM => tables.ring(service, place(tables, length)),
        choice::LEAST => least_loaded(tables, service, length),
        choice::LEAST_OF_TWO => {
            let first = tables.ring(service, place(tables, length));
            lighter(tables, first, tables.ring(service, place(tables, length)))
        }
        _ => NO_BACKEND,
    }
}

/// A random number below `length`; 0 if that is 0.
#[inline(always)]
fn place<T: Tables>(tables: &T, length: u32) -> u32 {
    crate::hash::slot_of(u64::from(tables.random()) << 32, length)
}

/// Of the `length` entries of a service's ring the backend with the fewest flows for its weight. Of several, the first after a place that moves on
/// with every call, so that they get their flows in turn.
#[inline(always)]
fn least_loaded<T: Tables>(tables: &T, service: u32, length: u32) -> u32 {
    let Some(start) = tables.turn(service).checked_rem(length) else { return NO_BACKEND };
    let mut best = NO_BACKEND;
    for step in 0..COMPARED_BACKENDS {
        if step >= length {
            break;
        }
        let place = start.wrapping_add(step);
        let place = if place >= length { place.wrapping_sub(length) } else { place };
        best = lighter(tables, best, tables.ring(service, place));
    }
    best
}

/// Of two backends the one that has fewer flows for its weight, counting the new one; `a` if they are level.
#[inline(always)]
fn lighter<T: Tables>(tables: &T, a: u32, b: u32) -> u32 {
    let (load_a, load_b) = (load(tables, a), load(tables, b));
    // a/b < c/d without a division; counts have 32 bits at most, and weights too. While a ring is being replaced, all that are in it may be without
    // weight: one of them is still better than nobody.
    let is_lighter = load_b.0.wrapping_mul(load_a.1) < load_a.0.wrapping_mul(load_b.1);
    if is_lighter || a == NO_BACKEND { b } else { a }
}

/// Flows that the backend would have, and its weight. Nobody's weight is 0, so that whoever has a weight is lighter.
#[inline(always)]
fn load<T: Tables>(tables: &T, id: u32) -> (u64, u64) {
    let backend = if id == NO_BACKEND { None } else { tables.backend(id) };
    let weight = backend.map_or(0, |backend| backend.borrow().weight());
    (tables.live_flows(id).wrapping_add(1), u64::from(weight))
}
