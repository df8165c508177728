//! The rows of the table.

use weir_packets::{
    fixtures::Family,
    world::{Mode, Protocol},
};

use crate::packet::rows::{Kind, Row, Setting, Size};

/// 1 and 64k flows.
const FLOW_BITS: [u32; 2] = [0, 16];

/// Every row: established connections through one service of 100 backends, by every mode in both families. Those of one
/// configuration follow each other.
#[must_use]
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for mode in [Mode::L2, Mode::Ipip, Mode::Nat] {
        for family in Family::BOTH {
            let setting =
                Setting { mode, family, backend_family: family, protocol: Protocol::Tcp, size: Size::ONE, tracked: 0 };
            rows.extend(FLOW_BITS.map(|bits| Row::new(setting, Kind::Ack, bits)));
        }
    }
    rows
}

/// The rows whose names contain every one of `parts`.
#[must_use]
pub fn matching(parts: &[String]) -> Vec<Row> {
    crate::select::matching(all(), parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_packet_benchmark() {
        let names: Vec<String> = all().iter().map(Row::to_string).collect();
        assert_eq!(names.len(), 12);
        for name in ["l2/v4/ack/1x100/1", "ipip/v6-in-v6/ack/1x100/64k", "nat/v4/ack/1x100/64k"] {
            assert!(names.iter().any(|other| other == name), "{name} is not among {names:?}");
        }
    }
}
