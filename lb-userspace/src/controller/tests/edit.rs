//! What commands make of a configuration.

use super::*;
use crate::{
    api::control::ControlError,
    config::raw,
    controller::edit::{BackendEdit, Edit},
};

/// What an edit makes of a whole configuration.
trait After {
    fn after(&self, spec: &Spec) -> Result<Spec, ControlError>;
}

impl After for Edit {
    fn after(&self, spec: &Spec) -> Result<Spec, ControlError> {
        let mut after = spec.clone();
        let undo = self.apply(spec)?.put(&mut after.services);
        let mut again = after.clone();
        undo.put(&mut again.services);
        assert_eq!(&again, spec, "it is undone whole");
        Ok(after)
    }
}

fn two() -> Spec {
    spec(&(service("web", 80, "l2", &[1, 2]) + &service("nat", 81, "nat", &[1])))
}

fn backend(service: &str, backend: &str, how: BackendEdit) -> Edit {
    Edit::Backend { service: service.into(), backend: backend.into(), how }
}

fn new_backend(address: &str) -> raw::Backend {
    raw::Backend { name: None, address: address.into(), port: None, weight: 1, draining: false, drain_until: None }
}

fn raw_service(name: &str, port: u16) -> raw::Service {
    raw::Service::from(&spec(&service(name, port, "l2", &[1])).services[0])
}

#[test]
fn each_edit_changes_what_it_says_and_nothing_else() {
    let mut expected = two();
    expected.services[0].backends[1].draining = true;
    let edit = backend("web", "b2", BackendEdit::Drain(None));
    assert_eq!(edit.after(&two()).unwrap(), expected);
    assert_eq!(edit.summary(), "backend \"b2\" of service \"web\" drained");
    assert_eq!(backend("web", "b2", BackendEdit::Undrain).after(&expected).unwrap(), two());

    expected = two();
    expected.services[0].backends[1].weight = 9;
    assert_eq!(backend("web", "b2", BackendEdit::Weight(9)).after(&two()).unwrap(), expected);

    expected = two();
    expected.services[0].backends.remove(0);
    assert_eq!(backend("web", "b1", BackendEdit::Remove { now: false }).after(&two()).unwrap(), expected);

    let added = Edit::AddBackend("web".into(), new_backend("198.51.100.9")).after(&two()).unwrap();
    assert_eq!(added.services[0].backends[2].name, "198.51.100.9");
    assert_eq!(added.services[1], two().services[1]);

    let added = Edit::AddService(raw_service("more", 82)).after(&two()).unwrap();
    assert_eq!((added.services.len(), added.services[2].name.as_str()), (3, "more"));
    assert_eq!(Edit::RemoveService("more".into()).after(&added).unwrap(), two());
}

#[test]
fn what_is_not_there_is_not_found() {
    let no_service = Err(ControlError::no_service("wob"));
    assert_eq!(Edit::RemoveService("wob".into()).after(&two()), no_service);
    assert_eq!(Edit::AddBackend("wob".into(), new_backend("198.51.100.9")).after(&two()), no_service);
    assert_eq!(backend("wob", "b1", BackendEdit::Remove { now: false }).after(&two()), no_service);
    assert_eq!(
        backend("web", "b3", BackendEdit::Remove { now: false }).after(&two()),
        Err(ControlError::no_backend("web", "b3"))
    );
}

#[test]
fn what_is_there_already_is_a_conflict() {
    let conflict = |edit: Edit| match edit.after(&two()) {
        Err(ControlError::Conflict(message)) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(conflict(Edit::AddService(raw_service("web", 82))), "service \"web\" exists already");
    let taken = conflict(Edit::AddService(raw_service("more", 80)));
    assert_eq!(taken, "service \"web\" has this VIP, port and protocol already");
    let named = raw::Backend { name: Some("b1".into()), ..new_backend("198.51.100.9") };
    let taken = conflict(Edit::AddBackend("web".into(), named));
    assert_eq!(taken, "backend \"b1\" of service \"web\" exists already");
}

#[test]
fn what_breaks_rules_is_invalid() {
    let problems = |edit: Edit| match edit.after(&two()) {
        Err(ControlError::Invalid(problems)) => problems.join("\n"),
        other => panic!("{other:?}"),
    };
    assert!(problems(backend("web", "b1", BackendEdit::Weight(1001))).contains("weight"));
    assert!(problems(Edit::AddBackend("web".into(), new_backend("198.51.100"))).contains("address"));
    assert!(problems(Edit::AddBackend("web".into(), new_backend("198.51.100.1"))).contains("198.51.100.1"));
}
