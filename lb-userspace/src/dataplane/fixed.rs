//! The arrays behind the program's tables at fixed addresses, see [`lb_common::abi::fixed`].
//!
//! aya makes the maps that an object declares, and has no way to say that a program is to be given the address of a value of one
//! that others share. So these are made here, and put into the object before aya sees it.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use anyhow::{Context as _, bail};
use aya::maps::MapData;
use lb_common::{
    abi::{
        fixed::{COUNT, FixedTable},
        steady,
    },
    index,
};

use super::{Residence, bpf};
use crate::tables::Capacity;

/// The arrays, by the numbers of their tables.
pub(super) struct Fixed([MapData; COUNT]);

/// Elements of each table.
pub(super) fn lengths(capacity: &Capacity) -> [u32; COUNT] {
    FixedTable::ALL.map(|table| match table {
        FixedTable::Kinds => 1,
        FixedTable::Services => capacity.service_ids,
        FixedTable::ServiceIndex => index::places(capacity.service_ids),
        FixedTable::ReverseIndex => index::places(capacity.backend_ids),
        FixedTable::Steady => steady::elements(capacity.slots),
        FixedTable::Backends => capacity.backend_ids,
        FixedTable::Egresses => capacity.egresses.into(),
    })
}

impl Fixed {
    /// Takes up the arrays that are at `residence`, and makes the others.
    pub(super) fn open(capacity: &Capacity, residence: Residence<'_>) -> anyhow::Result<Self> {
        let mut maps = Vec::with_capacity(COUNT);
        for (table, length) in FixedTable::ALL.into_iter().zip(lengths(capacity)) {
            let map = open(table, length, residence);
            maps.push(map.with_context(|| format!("cannot make or take up the table {}", table.name()))?);
        }
        let Ok(maps) = maps.try_into() else { bail!("there are not {COUNT} tables") };
        Ok(Self(maps))
    }

    /// The array of `table`.
    pub(super) fn map(&self, table: FixedTable) -> &MapData {
        &self.0[table as usize]
    }

    /// `object`, with the arrays where it has their tables' marks. The arrays must live until it is loaded.
    ///
    /// # Errors
    /// It names a table that there is not, or does not use one of them: it is not the program that this was made for.
    pub(super) fn put_into(&self, object: &[u8]) -> anyhow::Result<Vec<u64>> {
        put_into(object, self.0.each_ref().map(|map| map.fd().as_fd().as_raw_fd()))
    }
}

/// `object`, with these file descriptors where it has the tables' marks.
fn put_into(object: &[u8], descriptors: [RawFd; COUNT]) -> anyhow::Result<Vec<u64>> {
    /// A load of 64 bits into a register (`BPF_LD | BPF_IMM | BPF_DW`), whose low half is a mark's.
    const LOAD: u64 = (FixedTable::MARK as u64) << 32 | 0x18;
    /// Where an instruction says which register it sets.
    const REGISTER: u64 = 0xf << 8;
    /// Says that the low half is a map's descriptor, and the high one an offset into its first value.
    const PSEUDO_MAP_VALUE: u64 = 2 << 12;

    const { assert!(cfg!(target_endian = "little"), "an instruction's fields are read from a word") };
    let mut words: Vec<u64> = bytemuck::pod_collect_to_vec(object);
    let mut is_used = [false; COUNT];
    let mut rest = words.as_mut_slice();
    // An instruction has eight bytes, at a multiple of eight in the object; this one has two of them.
    while let [first, after @ ..] = rest {
        if *first & !REGISTER == LOAD
            && let Some(second) = after.first_mut()
        {
            let number = usize::try_from(*second >> 32)?;
            let table = descriptors.get(number).zip(is_used.get_mut(number));
            let (descriptor, is_used) = table.filter(|_| *second << 32 == 0).with_context(|| {
                format!("the object uses a table {:#x} at a fixed address, of which there are {COUNT}", *second)
            })?;
            *first = *first & REGISTER | 0x18 | PSEUDO_MAP_VALUE | u64::from(u32::try_from(*descriptor)?) << 32;
            (*second, *is_used) = (0, true);
        }
        rest = after;
    }
    if let Some((table, _)) = FixedTable::ALL.iter().zip(is_used).find(|(_, is_used)| !is_used) {
        bail!("the object does not use the table {}", table.name());
    }
    Ok(words)
}

/// Whether the kernel makes arrays that tables of any size fit into.
pub(crate) fn is_supported() -> io::Result<bool> {
    match bpf::create_mapped_value("probe", (4 << 20) + 1) {
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(false),
        made => made.map(|_| true),
    }
}

fn open(table: FixedTable, length: u32, residence: Residence<'_>) -> anyhow::Result<MapData> {
    let pin = residence.pin(table.name());
    if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
        return Ok(MapData::from_pin(pin)?);
    }
    let size = u32::try_from(u64::from(length) * u64::from(table.element()))?;
    let made = bpf::create_mapped_value(table.name(), size);
    let made = made.with_context(|| format!("{size} bytes; beyond 4 MiB that takes kernel 6.0 or newer"))?;
    let map = MapData::from_fd(made)?;
    if let Some(pin) = pin {
        map.pin(&pin).with_context(|| format!("cannot pin {}", pin.display()))?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::fixed::MOST_BYTES;

    use super::*;
    use crate::spec::TableSizes;

    /// A load into register `register` of the table with this number, as the compiler makes it.
    fn load(register: u8, number: u8) -> Vec<u8> {
        let mark = FixedTable::mark(number.into()).to_le_bytes();
        [&[0x18, register, 0, 0], &mark[..4], &[0; 4], &mark[4..]].concat()
    }

    fn loads() -> Vec<u8> {
        (0..7).flat_map(|number| load(9 - number, number)).collect()
    }

    const DESCRIPTORS: [u8; COUNT] = [70, 61, 52, 43, 34, 25, 16];

    #[test]
    fn descriptors_take_the_places_of_marks_and_of_nothing_else() -> anyhow::Result<()> {
        // Loads of other constants, of a map's descriptor, and of a mark's half where no instruction can be.
        let other = [
            [0x18, 3, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 1, 0, 0, 0],
            [0x18, 0x13, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        let shifted = [&[0; 4], &load(1, 0)[..], &[0; 4]].concat();
        let rest = [&other.concat()[..], &shifted].concat();
        let put =
            put_into(&[&rest[..], &loads(), &rest, &load(0, 2), &[1, 2, 3]].concat(), DESCRIPTORS.map(RawFd::from))?;
        let put: &[u8] = bytemuck::cast_slice(&put);
        let value = |register: u8, descriptor: u8| {
            vec![0x18, 0x20 | register, 0, 0, descriptor, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        };
        let values: Vec<_> = DESCRIPTORS.iter().zip(0..).flat_map(|(fd, number)| value(9 - number, *fd)).collect();
        assert_eq!(put, [&rest[..], &values, &rest, &value(0, 52), &[1, 2, 3, 0, 0, 0, 0, 0]].concat());
        Ok(())
    }

    #[test]
    fn an_object_of_other_tables_is_refused() {
        let refusal = |object: &[u8]| put_into(object, DESCRIPTORS.map(RawFd::from)).unwrap_err().to_string();
        let all = loads();
        assert!(refusal(&all[..all.len() - 16]).contains("does not use the table EGRESSES"));
        assert!(refusal(&[]).contains("does not use the table KINDS"));
        let unknown = [&all[..], &load(1, 7)].concat();
        assert!(refusal(&unknown).contains("a table 0x700000000"), "{}", refusal(&unknown));
        let mut odd = all;
        odd[8] = 1;
        assert!(refusal(&odd).contains("a table 0x1 "), "{}", refusal(&odd));
    }

    /// The largest values of the configuration.
    #[test]
    fn the_verifier_follows_the_largest_tables() {
        let sizes =
            TableSizes { services: 65_536, backends: 8_388_607, slots: 1 << 27, routes: 1 << 20, flows: 1 << 26 };
        for (table, length) in FixedTable::ALL.into_iter().zip(lengths(&Capacity::of(&sizes))) {
            let bytes = u64::from(length) * u64::from(table.element());
            assert!(bytes <= MOST_BYTES.into(), "{}: {bytes} bytes", table.name());
        }
    }
}
