//! The benchmark of the controller with few services: whether it measures, and whether it refuses wrong tables. Times are
//! not looked at.

use std::{collections::BTreeMap, env, path::Path};

use anyhow::{Context as _, Result};
use bytemuck::Zeroable as _;
use lb_common::abi::{self, SlotWord};
use weir::tables::{Endpoint, Tables};
use weir_bench::control::{check, measure::Bench, rows::Row, setting::Setting};
use weir_lab::requirements;

const FEW: Setting = Setting::new(3, 4);

#[test]
fn rows_of_every_kind_are_measured() -> Result<()> {
    if !requirements::are_met() {
        return Ok(());
    }
    let weir = env::var_os("WEIR_BIN").context("WEIR_BIN names no weir to measure: cargo xtask test sets it")?;
    let bench = Bench::new(Path::new(&weir), 2);
    for row in [
        Row::Cold(Setting::EMPTY),
        Row::Cold(FEW.own()),
        Row::Restart(FEW),
        Row::Weight(FEW),
        Row::Drain(FEW.own()),
        Row::DeathInOne(FEW.checked()),
        Row::DeathInAll(FEW),
        Row::Memory(FEW),
        Row::SweepAndKeep(3000),
        Row::SweepAndDelete(3000),
    ] {
        let report = bench.row(&row);
        assert_eq!(report.error, None, "{row}");
        assert_ne!(report.figures, [], "{row}");
    }
    Ok(())
}

#[test]
fn a_row_without_a_daemon_is_an_error() {
    if requirements::are_met() {
        let report = Bench::new(Path::new("/bin/false"), 1).row(&Row::Cold(FEW));
        assert_eq!(report.figures, []);
        assert!(report.error.is_some());
    }
}

/// What the kernel's tables hold for [`FEW`], its slots given out in turn.
fn tables() -> Tables {
    let mut tables = Tables::default();
    for service in 0..FEW.services {
        let key = Endpoint { address: FEW.vip(service).into(), port: 443, protocol: abi::protocol::TCP };
        let (id, first_slot) = (service + 1, service * FEW.slots());
        tables.services.insert(key, abi::Service { id, first_slot, slot_count: FEW.slots(), ..abi::Service::zeroed() });
        for backend in 0..FEW.backends {
            let mut entry = abi::Backend { service: id, family: abi::family::V4, ..abi::Backend::zeroed() };
            entry.address[..4].copy_from_slice(&FEW.address(service, backend).octets());
            tables.backends.insert(1 + service * FEW.backends + backend, entry);
        }
        let ids = (0..FEW.slots()).map(|slot| 1 + service * FEW.backends + slot % FEW.backends);
        tables.slots.insert(first_slot, ids.map(SlotWord::steady).collect());
    }
    tables
}

/// What is wrong with `tables` after `break_them`.
fn wrong(break_them: impl FnOnce(&mut Tables)) -> String {
    let mut tables = tables();
    break_them(&mut tables);
    check(&tables, &FEW, &BTreeMap::new()).map_or_else(|error| format!("{error:#}"), |()| "nothing".to_owned())
}

#[test]
fn wrong_tables_are_refused() {
    check(&tables(), &FEW, &BTreeMap::new()).unwrap();
    let slots = |tables: &mut Tables| tables.slots.remove(&FEW.slots()).unwrap();
    let stray = wrong(|tables| tables.slots.get_mut(&FEW.slots()).unwrap()[7] = SlotWord::steady(99));
    assert_eq!(stray, "service s1: 1 slots name backend 99, which is none");
    let foreign = wrong(|tables| tables.slots.get_mut(&FEW.slots()).unwrap()[7] = SlotWord::steady(1));
    assert_eq!(foreign, "service s1: slots name backend 1 of another service");
    assert_eq!(wrong(|tables| drop(slots(tables))), "service s1: has no slots");
    let unfair = wrong(|tables| {
        tables.slots.get_mut(&FEW.slots()).unwrap()[..400].fill(SlotWord::steady(5));
    });
    assert!(unfair.contains("slots in place of 4096.0"), "{unfair}");
    let gone = wrong(|tables| {
        tables.services.pop_first();
    });
    assert_eq!(gone, "2 services in place of 3");
}

#[test]
fn who_is_dead_may_not_be_named_by_one_slot() {
    let dead = FEW.address(1, 2);
    let weights = [((1, dead), 0)].into();
    let mut tables = tables();
    assert!(check(&tables, &FEW, &weights).is_err());
    let (first, dead_id) = (FEW.slots(), 1 + FEW.backends + 2);
    let others = [dead_id - 2, dead_id - 1, dead_id + 1];
    for (slot, word) in tables.slots.get_mut(&first).unwrap().iter_mut().enumerate() {
        *word = SlotWord::steady(others[slot % 3]);
    }
    check(&tables, &FEW, &weights).unwrap();
    tables.slots.get_mut(&first).unwrap()[11] = SlotWord::steady(dead_id);
    let error = format!("{:#}", check(&tables, &FEW, &weights).unwrap_err());
    assert_eq!(error, format!("service s1: {dead} has 1 slots in place of 0.0"));
}
