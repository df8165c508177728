//! How long backends take to answer, measured at the handshakes of real clients: from a SYN to the client's next packet,
//! which follows the backend's SYN-ACK. Sums over many clients differ between backends by what the backends do.

use crate::{
    abi::{HANDSHAKES, Handshake},
    tables::Tables,
};

/// Handshakes that take longer are left out: their client was slow, or lost a packet.
const LONGEST: u64 = 2_000_000_000;

/// Takes in a packet from a client to `backend`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low bits are the place")]
pub(crate) fn follow<T: Tables>(tables: &T, flow: u64, backend: u32, opens: bool) {
    let place = flow as u32 & (HANDSHAKES - 1);
    if opens {
        tables.set_handshake(place, Handshake { flow, opened: tables.now_nanoseconds() });
        return;
    }
    let Some(handshake) = tables.handshake(place) else { return };
    if handshake.flow != flow {
        return;
    }
    tables.set_handshake(place, Handshake { flow: 0, opened: 0 });
    let taken = tables.now_nanoseconds().wrapping_sub(handshake.opened);
    if taken < LONGEST {
        tables.count_handshake(backend, taken);
    }
}
