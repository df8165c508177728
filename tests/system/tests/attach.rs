//! Attaching where an earlier daemon attached: to interfaces that are not what they were, and while it still runs.

use std::process::{self, Command};

use anyhow::{Context as _, Result, ensure};
use aya::{programs::links::PinnedLink, test_helpers::NetNsGuard};
use weir::{
    dataplane::{Kernel, Pins},
    object::OBJECT,
    spec::{Node, OnExit, TableSizes, XdpMode},
    tables::Dataplane as _,
};

#[test]
fn an_interface_that_was_made_anew_with_its_old_index_is_attached_to() -> Result<()> {
    let host = Host::new("anew")?;
    make_veth()?;
    host.attach("in0", XdpMode::Native)?;
    ip(&["link", "del", "in0"])?;
    make_veth()?;
    assert_eq!(xdp("in0")?, None);
    host.attach("in0", XdpMode::Native)?;
    assert_eq!(xdp("in0")?, Some(XdpMode::Native));
    Ok(())
}

#[test]
fn an_interface_that_is_made_anew_under_a_running_daemon_is_attached_to() -> Result<()> {
    let host = Host::new("again")?;
    make_veth()?;
    let node = host.node("in0", XdpMode::Native);
    let mut kernel = Kernel::open(OBJECT, &node, Pins::of(&host.instance))?;
    kernel.attach(&node.interfaces, node.xdp)?;
    let told = |kernel: &Kernel| kernel.attachments().remove(0);
    let attached = told(&kernel);
    kernel.reattach();
    assert_eq!(told(&kernel), attached, "nothing has changed");

    ip(&["link", "del", "in0"])?;
    kernel.reattach();
    let gone = told(&kernel);
    assert_eq!((gone.xdp, gone.why.as_str()), (None, "interface in0 does not exist"));

    // With another index, then with the same again, which nobody could tell by the index.
    for index in ["200", "200"] {
        ip(&["link", "add", "in0", "index", index, "type", "veth", "peer", "name", "other0"])?;
        kernel.reattach();
        let again = told(&kernel);
        assert_eq!((again.index, again.xdp, again.why.as_str()), (200, Some(XdpMode::Native), "as configured"));
        assert_eq!(xdp("in0")?, Some(XdpMode::Native));
        ip(&["link", "del", "in0"])?;
    }

    ip(&["link", "add", "in0", "type", "bridge"])?;
    kernel.reattach();
    let refused = told(&kernel);
    assert!(refused.xdp.is_none() && refused.why.contains("no native XDP"), "{refused:?}");
    Ok(())
}

#[test]
fn an_interface_with_a_new_name_is_attached_to() -> Result<()> {
    let host = Host::new("renamed")?;
    make_veth()?;
    host.attach("in0", XdpMode::Native)?;
    ip(&["link", "set", "in0", "name", "new0"])?;
    host.attach("new0", XdpMode::Native)?;
    assert_eq!(xdp("new0")?, Some(XdpMode::Native));
    Ok(())
}

#[test]
fn a_mode_that_the_driver_lacks_leaves_the_earlier_one() -> Result<()> {
    let host = Host::new("mode")?;
    ip(&["link", "add", "in0", "type", "bridge"])?;
    host.attach("in0", XdpMode::Generic)?;
    let error = host.attach("in0", XdpMode::Native).unwrap_err().to_string();
    assert!(error.contains("no native XDP"), "{error}");
    assert_eq!(xdp("in0")?, Some(XdpMode::Generic));
    host.attach("in0", XdpMode::Generic)?;
    assert_eq!(xdp("in0")?, Some(XdpMode::Generic));
    Ok(())
}

#[test]
fn a_second_daemon_of_an_instance_touches_nothing() -> Result<()> {
    let host = Host::new("second")?;
    make_veth()?;
    let first = Kernel::open(OBJECT, &host.node("in0", XdpMode::Native), Pins::of(&host.instance))?;
    let error = host.attach("in0", XdpMode::Native).unwrap_err().to_string();
    assert!(error.contains("another daemon works with"), "{error}");
    assert_eq!(xdp("in0")?, None);
    drop(first);
    host.attach("in0", XdpMode::Native)
}

#[test]
fn nothing_is_attached_once_the_pins_are_removed() -> Result<()> {
    let host = Host::new("removed")?;
    make_veth()?;
    host.attach("in0", XdpMode::Native)?;
    let pins = Pins::of(&host.instance);
    // Keeps the link alive beyond its pin, as the kernel itself does for a while.
    let _held = PinnedLink::from_pin(pins.directory().join("links/in0,100,native"))?;
    pins.remove_all()?;
    assert_eq!(xdp("in0")?, None);
    Ok(())
}

#[test]
fn a_first_start_that_fails_leaves_nothing() -> Result<()> {
    let host = Host::new("fails")?;
    make_veth()?;
    // Its maps are made and pinned before the program is missed.
    let name = b"weir\0";
    let mut object = OBJECT.to_vec();
    let found: Vec<usize> = (0..object.len() - name.len()).filter(|&at| object[at..].starts_with(name)).collect();
    for at in found {
        object[at..][..4].copy_from_slice(b"gone");
    }
    let pins = Pins::of(&host.instance);
    let opened = Kernel::open(object.leak(), &host.node("in0", XdpMode::Native), pins.clone());
    let error = opened.err().context("an object without the program was opened")?;
    assert_eq!(error.to_string(), "the object lacks the program weir");
    assert!(!pins.directory().exists(), "{} stays", pins.directory().display());
    Ok(())
}

/// A host, and pins of its own on it. Both are gone when this is dropped.
struct Host {
    instance: String,
    _namespace: NetNsGuard,
}

impl Host {
    fn new(test: &str) -> Result<Self> {
        Ok(Self { instance: format!("test-{test}-{}", process::id()), _namespace: NetNsGuard::new()? })
    }

    /// What a daemon does when it starts; it is killed right after.
    fn attach(&self, interface: &str, xdp: XdpMode) -> Result<()> {
        let node = self.node(interface, xdp);
        Kernel::open(OBJECT, &node, Pins::of(&self.instance))?.attach(&node.interfaces, node.xdp)
    }

    fn node(&self, interface: &str, xdp: XdpMode) -> Node {
        Node {
            instance: self.instance.clone(),
            interfaces: vec![interface.to_owned()],
            xdp,
            on_exit: OnExit::Keep,
            socket: "/nonexistent".into(),
            state_dir: "/nonexistent".into(),
            metrics: None,
            seed: None,
            outer_v4: None,
            outer_v6: None,
            tables: TableSizes { services: 1, backends: 1, slots: 101, routes: 1, flows: 1 },
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = Pins::of(&self.instance).remove_all() {
            eprintln!("pins of {} stay: {error:#}", self.instance);
        }
    }
}

fn make_veth() -> Result<()> {
    ip(&["link", "add", "in0", "index", "100", "type", "veth", "peer", "name", "other0"]).map(drop)
}

/// How a program is attached to `interface`, as the kernel tells.
fn xdp(interface: &str) -> Result<Option<XdpMode>> {
    let shown = ip(&["link", "show", "dev", interface])?;
    Ok(if shown.contains(" xdpgeneric ") {
        Some(XdpMode::Generic)
    } else {
        shown.contains(" xdp ").then_some(XdpMode::Native)
    })
}

fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip")?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
