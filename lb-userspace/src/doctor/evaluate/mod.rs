//! From facts to findings. Pure.

mod host;
mod interface;

use super::{
    facts::Facts,
    report::{Finding, Report},
};

/// Everything that there is to say about these facts.
#[must_use]
pub fn report(facts: &Facts) -> Report {
    let mut findings = host::findings(&facts.host);
    match &facts.interfaces {
        Ok(interfaces) if interfaces.is_empty() => findings.push(Finding::warn(
            "interfaces",
            "no Ethernet interface is up",
            "bring one up, or name the ones to examine: weir doctor INTERFACE...",
        )),
        Ok(interfaces) => findings.extend(interfaces.iter().flat_map(|(name, interface)| {
            interface::findings(name, interface.as_ref(), &facts.host)
                .into_iter()
                .map(|finding| Finding { interface: Some(name.clone()), ..finding })
        })),
        Err(error) => findings.push(Finding::warn(
            "interfaces",
            format!("can't be listed: {error}"),
            "run where netlink sockets are allowed",
        )),
    }
    Report { findings }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        facts::{Host, Interface},
        report::Level,
    };

    #[test]
    fn interfaces_name_their_findings() {
        let facts = Facts { host: Host::default(), interfaces: Ok(vec![("eth7".into(), Some(Interface::default()))]) };
        let report = report(&facts);
        assert!(report.findings.iter().any(|finding| finding.interface.as_deref() == Some("eth7")));
        assert_eq!(report.findings[0].interface, None);
    }

    #[test]
    fn nothing_known_is_a_report_too() {
        let unlisted = report(&Facts { host: Host::default(), interfaces: Err("Permission denied".into()) });
        let last = unlisted.findings.last().unwrap();
        assert_eq!((last.level, last.found.as_str()), (Level::Warn, "can't be listed: Permission denied"));
        let none = report(&Facts { host: Host::default(), interfaces: Ok(Vec::new()) });
        assert_eq!(none.findings.last().unwrap().level, Level::Warn);
    }
}
