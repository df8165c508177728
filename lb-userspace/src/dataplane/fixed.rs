//! The arrays behind the program's tables at fixed addresses, see [`lb_common::abi::fixed`], and the one of its counters.
//!
//! aya makes the maps that an object declares, with elements of the size that it declares, and has no way to say that a program is
//! to be given the address of a value of one that others share. So these are made here, and put into the object before aya sees it.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    path::Path,
};

use anyhow::{Context as _, bail};
use aya::maps::MapData;
use lb_common::{
    abi::{
        CounterLayout,
        fixed::{COUNT, FixedTable},
        steady,
    },
    index,
};

use super::{Residence, bpf, counters, hint};
use crate::tables::Capacity;

/// The arrays: those of the tables, by their numbers, and that of the counters.
const ARRAYS: usize = COUNT + 1;

/// The arrays, by their numbers.
pub(super) struct Fixed([MapData; ARRAYS]);

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
        let mut maps = Vec::with_capacity(ARRAYS);
        for (table, length) in FixedTable::ALL.into_iter().zip(lengths(capacity)) {
            let bytes = u64::from(length) * u64::from(table.element());
            maps.push(open(table.name(), bytes, 1, residence)?);
        }
        let of_a_cpu = counters::layout(capacity, residence).bytes();
        maps.push(open(CounterLayout::NAME, of_a_cpu, counters::cpus()?, residence)?);
        let Ok(maps) = maps.try_into() else { bail!("there are not {ARRAYS} arrays") };
        Ok(Self(maps))
    }

    /// The array of `table`.
    pub(super) fn map(&self, table: FixedTable) -> &MapData {
        &self.0[table as usize]
    }

    /// The array of the counters.
    pub(super) fn counters(&self) -> &MapData {
        &self.0[COUNT]
    }

    /// The array called `name`, if it is one of these.
    pub(super) fn named(&self, name: &str) -> Option<&MapData> {
        self.0.iter().zip(names()).find_map(|(map, its)| (its == name).then_some(map))
    }

    /// `object`, with the arrays where it has their tables' marks. The arrays must live until it is loaded.
    ///
    /// # Errors
    /// It names a table that there is not, or does not use one of them: it is not the program that this was made for.
    pub(super) fn put_into(&self, object: &[u8]) -> anyhow::Result<Vec<u64>> {
        put_into(object, self.0.each_ref().map(|map| map.fd().as_fd().as_raw_fd()))
    }
}

/// The arrays' names.
fn names() -> impl Iterator<Item = &'static str> {
    FixedTable::ALL.into_iter().map(FixedTable::name).chain([CounterLayout::NAME])
}

/// `object`, with these file descriptors where it has the tables' marks.
fn put_into(object: &[u8], descriptors: [RawFd; ARRAYS]) -> anyhow::Result<Vec<u64>> {
    /// A load of 64 bits into a register (`BPF_LD | BPF_IMM | BPF_DW`), whose low half is a mark's.
    const LOAD: u64 = (FixedTable::MARK as u64) << 32 | 0x18;
    /// Where an instruction says which register it sets.
    const REGISTER: u64 = 0xf << 8;
    /// Says that the low half is a map's descriptor, and that the map is meant.
    const PSEUDO_MAP_FD: u64 = 1 << 12;
    /// Says that the low half is a map's descriptor, and the high one an offset into its first value.
    const PSEUDO_MAP_VALUE: u64 = 2 << 12;

    const { assert!(cfg!(target_endian = "little"), "an instruction's fields are read from a word") };
    let mut words: Vec<u64> = bytemuck::pod_collect_to_vec(object);
    let mut is_used = [false; ARRAYS];
    let mut rest = words.as_mut_slice();
    // An instruction has eight bytes, at a multiple of eight in the object; this one has two of them.
    while let [first, after @ ..] = rest {
        if *first & !REGISTER == LOAD
            && let Some(second) = after.first_mut()
        {
            let number = usize::try_from(*second >> 32)?;
            let table = descriptors.get(number).zip(is_used.get_mut(number));
            let (descriptor, is_used) = table
                .filter(|_| *second << 32 == 0)
                .with_context(|| format!("the object uses array {:#x}; there are {ARRAYS}", *second))?;
            let pseudo = if number < COUNT { PSEUDO_MAP_VALUE } else { PSEUDO_MAP_FD };
            *first = *first & REGISTER | 0x18 | pseudo | u64::from(u32::try_from(*descriptor)?) << 32;
            (*second, *is_used) = (0, true);
        }
        rest = after;
    }
    if let Some((name, _)) = names().zip(is_used).find(|(_, is_used)| !is_used) {
        bail!("the object does not use the array {name}");
    }
    Ok(words)
}

/// Whether the kernel makes arrays that tables of any size fit into.
pub(crate) fn is_supported() -> io::Result<bool> {
    match bpf::create_mapped_array("probe", (4 << 20) + 1, 1) {
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(false),
        made => made.map(|_| true),
    }
}

/// Takes up the array called `name` that is at `residence`, or makes one of so many values of so many bytes.
fn open(name: &str, bytes: u64, values: u32, residence: Residence<'_>) -> anyhow::Result<MapData> {
    let pin = residence.pin(name);
    let opened = match &pin {
        Some(pin) if pin.exists() => MapData::from_pin(pin).map_err(Into::into),
        _ => make(name, bytes, values, pin.as_deref()),
    };
    opened.with_context(|| format!("cannot make or take up the table {name}"))
}

fn make(name: &str, bytes: u64, values: u32, pin: Option<&Path>) -> anyhow::Result<MapData> {
    let made = bpf::create_mapped_array(name, u32::try_from(bytes)?, values);
    let made = made.map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::E2BIG) => Some("the kernel is too old: values beyond 4 MiB take 6.0 or newer"),
            _ => hint(&error),
        };
        let error = anyhow::Error::new(error).context(format!("{values} values of {bytes} bytes"));
        match hint {
            Some(hint) => error.context(hint),
            None => error,
        }
    })?;
    let map = MapData::from_fd(made)?;
    if let Some(pin) = pin {
        map.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{MAX_SERVICE_ID, fixed::MOST_BYTES};

    use super::*;
    use crate::spec::TableSizes;

    /// A load into register `register` of the table with this number, as the compiler makes it.
    fn load(register: u8, number: u8) -> Vec<u8> {
        let mark = FixedTable::mark(number.into()).to_le_bytes();
        [&[0x18, register, 0, 0], &mark[..4], &[0; 4], &mark[4..]].concat()
    }

    fn loads() -> Vec<u8> {
        (0..8).flat_map(|number| load(9 - number, number)).collect()
    }

    const DESCRIPTORS: [u8; ARRAYS] = [70, 61, 52, 43, 34, 25, 16, 7];

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
        // The tables' addresses, and the counters themselves.
        let value = |register: u8, descriptor: u8| {
            let pseudo = if descriptor == 7 { 0x10 } else { 0x20 };
            vec![0x18, pseudo | register, 0, 0, descriptor, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        };
        let values: Vec<_> = DESCRIPTORS.iter().zip(0..).flat_map(|(fd, number)| value(9 - number, *fd)).collect();
        assert_eq!(put, [&rest[..], &values, &rest, &value(0, 52), &[1, 2, 3, 0, 0, 0, 0, 0]].concat());
        Ok(())
    }

    #[test]
    fn an_object_of_other_tables_is_refused() {
        let refusal = |object: &[u8]| put_into(object, DESCRIPTORS.map(RawFd::from)).unwrap_err().to_string();
        let all = loads();
        assert!(refusal(&all[..all.len() - 16]).contains("does not use the array COUNTERS"));
        assert!(refusal(&[]).contains("does not use the array KINDS"));
        let unknown = [&all[..], &load(1, 8)].concat();
        assert!(refusal(&unknown).contains("array 0x800000000;"), "{}", refusal(&unknown));
        let mut odd = all;
        odd[8] = 1;
        assert!(refusal(&odd).contains("array 0x1;"), "{}", refusal(&odd));
    }

    #[test]
    fn what_the_kernel_has_no_memory_for_is_told_with_a_remedy() {
        let refusal = open("PROBE", 1 << 29, 1 << 20, Residence::Unpinned).unwrap_err();
        assert_eq!(
            format!("{refusal:#}"),
            "cannot make or take up the table PROBE: not enough memory for the tables: lower the sizes in [node.tables]: \
             1048576 values of 536870912 bytes: Cannot allocate memory (os error 12)"
        );
    }

    /// The largest values of the configuration.
    #[test]
    fn the_verifier_follows_the_largest_tables() {
        let (services, backends) = (65_536, TableSizes::MOST_BACKENDS);
        let sizes = TableSizes { services, backends, slots: 1 << 27, routes: 1 << 20, flows: 1 << 26 };
        for (table, length) in FixedTable::ALL.into_iter().zip(lengths(&Capacity::of(&sizes))) {
            let bytes = u64::from(length) * u64::from(table.element());
            assert!(bytes <= MOST_BYTES.into(), "{}: {bytes} bytes", table.name());
        }
        assert!(Capacity::of(&sizes).service_ids <= MAX_SERVICE_ID + 1);
        assert!(counters::layout(&Capacity::of(&sizes), Residence::Unpinned).bytes() <= MOST_BYTES.into());
    }
}
