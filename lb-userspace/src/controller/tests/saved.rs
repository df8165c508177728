//! The state file.

use std::fs;

use super::*;
use crate::{
    controller::edit::{BackendEdit, Edit},
    spec::Backend,
};

fn drained(mut spec: Spec) -> Spec {
    spec.services[0].backends[0].draining = true;
    spec
}

#[test]
fn runtime_changes_outlive_the_daemon_while_the_file_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    let changed = drained(start.spec.clone());
    start.store.save(&changed).unwrap();
    let mut again = start_from(directory.path(), &services).unwrap();
    assert_eq!((&again.spec, again.outdated), (&changed, false));
    again.store.forget().unwrap();
    again.store.forget().unwrap();
    assert_eq!(start_from(directory.path(), &services).unwrap().spec, start.spec);
}

#[test]
fn a_changed_file_wins() {
    let directory = tempfile::tempdir().unwrap();
    let mut start = start_from(directory.path(), &service("web", 80, "l2", &[1, 2])).unwrap();
    start.store.save(&drained(start.spec)).unwrap();
    let again = start_from(directory.path(), &service("web", 80, "l2", &[1, 2, 3])).unwrap();
    assert!(again.outdated);
    assert_eq!(again.spec.services[0].backends.iter().filter(|backend| backend.draining).count(), 0);
    assert_eq!(again.spec.services[0].backends.len(), 3);
}

#[test]
fn a_damaged_state_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    start.store.save(&start.spec).unwrap();
    let path = directory.path().join("state/state.toml");
    let good = fs::read_to_string(&path).unwrap();
    let cases = [
        (good[..good.len() / 2].to_owned(), "TOML parse error"),
        (String::new(), "config_sha256"),
        (good.replace("198.51.100.2", "198.51.100.257"), "address"),
        (good.replace("weight = 1", "weight = -1"), "weight"),
        (good.replace("weight = 1", "wait = 1"), "wait"),
    ];
    for (text, expected) in cases {
        fs::write(&path, text).unwrap();
        let error = start_from(directory.path(), &services).unwrap_err().to_string();
        for part in [expected, path.to_str().unwrap(), "move it away"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

fn weight(backend: &str, weight: u16) -> Edit {
    Edit::Backend { service: "web".into(), backend: backend.into(), how: BackendEdit::Weight(weight) }
}

/// The weights of the backends that a daemon starts with here.
fn weights(directory: &Path) -> Vec<u16> {
    let start = start_from(directory, &service("web", 80, "l2", &[1, 2])).unwrap();
    assert!(!start.outdated);
    start.spec.services[0].backends.iter().map(|backend| backend.weight).collect()
}

#[test]
fn changes_are_kept_one_by_one_on_the_file_and_on_the_state_file() {
    let directory = tempfile::tempdir().unwrap();
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    start.store.append(&weight("b2", 8)).unwrap();
    assert_eq!(weights(directory.path()), [7, 8]);

    let mut start = start_from(directory.path(), &services).unwrap();
    start.store.append(&weight("b1", 9)).unwrap();
    start.store.append(&weight("b2", 1)).unwrap();
    start.store.take_back().unwrap();
    assert_eq!(weights(directory.path()), [9, 8]);

    let mut start = start_from(directory.path(), &services).unwrap();
    start.store.save(&start.spec).unwrap();
    assert_eq!(weights(directory.path()), [9, 8]);
    start.store.append(&weight("b1", 3)).unwrap();
    assert_eq!(weights(directory.path()), [3, 8]);
    start.store.forget().unwrap();
    assert_eq!(weights(directory.path()), [1, 1]);
    start.store.append(&weight("b1", 2)).unwrap();
    start.store.take_back().unwrap();
    start.store.append(&weight("b2", 6)).unwrap();
    assert_eq!(weights(directory.path()), [1, 6]);
}

#[test]
fn a_state_file_that_has_taken_in_the_journal_stands_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("state/journal");
    let mut start = start_from(directory.path(), &service("web", 80, "l2", &[1, 2])).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    let old = fs::read(&journal).unwrap();
    start.spec.services[0].backends[0].weight = 9;
    start.store.save(&start.spec).unwrap();
    assert!(!journal.exists());
    // The power fails before the journal is removed.
    fs::write(&journal, old).unwrap();
    assert_eq!(weights(directory.path()), [9, 1]);
}

#[test]
fn a_line_that_was_cut_short_was_never_kept() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("state/journal");
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    let one = fs::read(&journal).unwrap();
    start.store.append(&weight("b2", 8)).unwrap();
    let two = fs::read(&journal).unwrap();
    for length in 0..=two.len() {
        fs::write(&journal, &two[..length]).unwrap();
        let expected = [if length < one.len() { 1 } else { 7 }, if length < two.len() { 1 } else { 8 }];
        assert_eq!(weights(directory.path()), expected, "{length} of {} bytes", two.len());
        let mut start = start_from(directory.path(), &services).unwrap();
        start.store.append(&weight("b2", 5)).unwrap();
        assert_eq!(weights(directory.path()), [expected[0], 5], "{length} of {} bytes", two.len());
    }
}

#[test]
fn a_damaged_journal_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("state/journal");
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    for weight_of_b1 in 7..10 {
        start.store.append(&weight("b1", weight_of_b1)).unwrap();
    }
    let good = fs::read_to_string(&journal).unwrap();
    for (from, to, expected) in
        [("\"weight\":7", "\"weight\":6", "line 2"), ("config_sha256", "config_sha512", "line 1")]
    {
        fs::write(&journal, good.replacen(from, to, 1)).unwrap();
        let error = start_from(directory.path(), &services).unwrap_err().to_string();
        for part in [expected, journal.to_str().unwrap(), "move it away"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

/// A line as the journal has them, whatever it holds.
fn line(json: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(json);
    format!("{:016x} {json}\n", u64::from_be_bytes(digest[..8].try_into().unwrap()))
}

#[test]
fn a_line_of_another_version_is_an_error_wherever_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("state/journal");
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    let good = fs::read_to_string(&journal).unwrap();
    let (_, edit) = good.lines().nth(1).unwrap().split_once(' ').unwrap();
    assert!(good.ends_with(&line(edit)), "{good}");
    fs::write(&journal, good + &line(r#"{"rename":{"service":"web"}}"#)).unwrap();
    let error = start_from(directory.path(), &services).unwrap_err().to_string();
    assert!(error.contains("another version of Weir wrote line 3"), "{error}");
}

#[test]
fn a_state_file_that_is_mended_keeps_its_journal_and_one_that_is_moved_away_does_not_lose_it() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state/state.toml");
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    start.store.save(&start.spec).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace("weight = 1", "weight = 5")).unwrap();
    assert_eq!(weights(directory.path()), [7, 5]);
    fs::remove_file(&state).unwrap();
    let error = start_from(directory.path(), &services).unwrap_err().to_string();
    assert!(error.contains("another state file than the one that is there"), "{error}");
    fs::write(&state, text).unwrap();
    assert_eq!(weights(directory.path()), [7, 1]);
}

#[test]
fn a_change_that_can_not_be_taken_back_makes_room_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("state/journal");
    let mut start = start_from(directory.path(), &service("web", 80, "l2", &[1, 2])).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    start.store.append(&weight("b2", 8)).unwrap();
    let hidden = journal.with_extension("hidden");
    fs::rename(&journal, &hidden).unwrap();
    start.store.take_back().unwrap_err();
    fs::rename(&hidden, &journal).unwrap();
    start.store.append(&weight("b2", 9)).unwrap();
    assert_eq!(weights(directory.path()), [7, 9]);
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 3, "the refused change is gone");
}

#[test]
fn nothing_is_kept_in_a_journal_that_somebody_has_shortened() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("state/journal");
    let mut start = start_from(directory.path(), &service("web", 80, "l2", &[1, 2])).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    fs::write(&journal, "").unwrap();
    let error = format!("{:#}", start.store.append(&weight("b2", 8)).unwrap_err());
    assert!(error.contains("shortened"), "{error}");
    fs::remove_file(&journal).unwrap();
    start.store.append(&weight("b2", 8)).unwrap_err();
    assert!(!journal.exists());
}

#[test]
fn backends_and_services_that_were_added_are_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let services = service("web", 80, "l2", &[1, 2]);
    let mut start = start_from(directory.path(), &services).unwrap();
    let expected = spec(&(service("web", 80, "l2", &[1, 2, 3]) + &service("mail", 25, "l2", &[4])));
    let raw = config::raw::Config::from(&expected);
    start.store.append(&Edit::AddBackend("web".into(), raw.services[0].backends[2].clone())).unwrap();
    start.store.append(&Edit::AddService(raw.services[1].clone())).unwrap();
    let again = start_from(directory.path(), &services).unwrap();
    assert_eq!(again.spec.services, expected.services);

    start.store.append(&Edit::AddService(raw.services[1].clone())).unwrap();
    let error = start_from(directory.path(), &services).unwrap_err().to_string();
    assert!(error.contains("the journal") && error.contains("mail"), "{error}");
}

#[test]
fn a_changed_file_wins_over_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let mut start = start_from(directory.path(), &service("web", 80, "l2", &[1, 2])).unwrap();
    start.store.append(&weight("b1", 7)).unwrap();
    let again = start_from(directory.path(), &service("web", 80, "l2", &[1, 2, 3])).unwrap();
    assert!(again.outdated);
    assert!(again.spec.services[0].backends.iter().all(|backend| backend.weight == 1));
}

#[test]
fn what_is_dropped_is_told() {
    let file = spec(&(service("web", 80, "l2", &[1, 2, 3, 4]) + &service("old", 81, "l2", &[1])));
    let mut saved = spec(&(service("web", 80, "l2", &[1, 2, 3, 5]) + &service("new", 82, "l2", &[1])));
    saved.services[0].backends[0].draining = true;
    saved.services[0].backends[1].weight = 7;
    let web: &mut Vec<Backend> = &mut saved.services[0].backends;
    web[2].address = address(33);
    assert_eq!(
        crate::controller::saved::differences(&file.services, &saved.services),
        [
            "service \"new\" added",
            "service \"old\" removed",
            "backend web/b1 draining",
            "backend web/b2 weight 7",
            "backend web/b3 changed",
            "backend web/b4 removed",
            "backend web/b5 added",
        ]
    );
}
