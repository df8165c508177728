//! The state file.

use std::fs;

use super::*;
use crate::spec::Backend;

fn drained(mut spec: Spec) -> Spec {
    spec.services[0].backends[0].draining = true;
    spec
}

#[test]
fn runtime_changes_outlive_the_daemon_while_the_file_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let services = service("web", 80, "l2", &[1, 2]);
    let start = start_from(directory.path(), &services).unwrap();
    let changed = drained(start.spec.clone());
    start.store.save(&changed).unwrap();
    let again = start_from(directory.path(), &services).unwrap();
    assert_eq!((again.spec, again.outdated), (changed, false));
    again.store.forget().unwrap();
    again.store.forget().unwrap();
    assert_eq!(start_from(directory.path(), &services).unwrap().spec, start.spec);
}

#[test]
fn a_changed_file_wins() {
    let directory = tempfile::tempdir().unwrap();
    let start = start_from(directory.path(), &service("web", 80, "l2", &[1, 2])).unwrap();
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
    let start = start_from(directory.path(), &services).unwrap();
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
