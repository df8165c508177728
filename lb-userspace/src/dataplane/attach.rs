//! Attaching an XDP program to an interface, through links that can be pinned.

use anyhow::{Context as _, anyhow};
use aya::programs::{
    ProgramError, Xdp, XdpMode as AyaMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use rustix::io::Errno;
use tracing::{error, info, warn};

use super::Pins;
use crate::{spec::XdpMode, tables::Attachment};

/// An attachment, as far as its pin's name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub interface: String,
    /// Kernel interface index: an interface that was deleted and made again is another one.
    pub index: u32,
    pub mode: XdpMode,
}

impl Link {
    /// The attachment to `interface` as it is now.
    pub(crate) fn of(interface: &str, mode: XdpMode) -> anyhow::Result<Self> {
        // Not from sysfs, which shows the network namespace that it was mounted in.
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
            .context("cannot open a socket")?;
        let index = rustix::net::netdevice::name_to_index(socket, interface)
            .map_err(|_| anyhow!("interface {interface} does not exist"))?;
        Ok(Self { interface: interface.to_owned(), index, mode })
    }

    /// As operators see it while the program is attached.
    pub(super) fn attached(&self) -> Attachment {
        let (interface, why) = (self.interface.clone(), "as configured".to_owned());
        Attachment { interface, index: self.index, xdp: Some(self.mode), why }
    }

    pub(crate) const fn mode_name(&self) -> &'static str {
        match self.mode {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }

    /// `eth1,7,native`; an interface's name may hold commas, what follows it can't.
    pub(crate) fn pin_name(&self) -> String {
        format!("{},{},{}", self.interface, self.index, self.mode_name())
    }

    pub(crate) fn from_pin_name(name: &str) -> Option<Self> {
        let mut parts = name.rsplitn(3, ',');
        let mode = match parts.next()? {
            "native" => XdpMode::Native,
            "generic" => XdpMode::Generic,
            _ => return None,
        };
        let index = parts.next()?.parse().ok()?;
        Some(Self { interface: parts.next()?.to_owned(), index, mode })
    }
}

/// Attaches `program`, and pins the link where `pins` are given. Where an earlier daemon's link is pinned, its
/// program is replaced atomically, and the answer is true.
pub(crate) fn attach(program: &mut Xdp, link: &Link, pins: Option<&Pins>) -> anyhow::Result<bool> {
    let Some(pins) = pins else {
        return create(program, link, None).map(|()| false);
    };
    if replace(program, link, pins)? {
        return Ok(true);
    }
    let detached = detach_others(link, pins)?;
    let created = create(program, link, Some(pins));
    if created.is_err() {
        // What forwarded before goes on forwarding, as far as its interface is still there.
        for other in &detached {
            match create(program, other, Some(pins)) {
                Ok(()) => info!("{}: attached again, {} XDP", other.interface, other.mode_name()),
                Err(error) => warn!("{}: can't be attached again: {error:#}", other.interface),
            }
        }
    }
    created.map(|()| false)
}

/// Attaches `program` again where it is not, and makes `attachment` say how that is now. What is otherwise than before
/// is logged.
pub(super) fn look_again(program: &mut Xdp, attachment: &mut Attachment, mode: XdpMode, pins: &Pins) {
    let mut now = attachment.clone();
    let attached = Link::of(&attachment.interface, mode).and_then(|link| {
        now.index = link.index;
        // Where it is attached the kernel finds the program to be the same and does nothing.
        let was_there = attach(program, &link, Some(pins))?;
        if !was_there || attachment.xdp.is_none() {
            info!("{}: attached again, {} XDP", link.interface, link.mode_name());
        }
        Ok(link.attached())
    });
    let now = attached.unwrap_or_else(|error| Attachment { xdp: None, why: format!("{error:#}"), ..now });
    if now.xdp.is_none() && now != *attachment {
        error!("{}: not attached, nothing is balanced there; trying again: {}", now.interface, now.why);
    }
    *attachment = now;
}

/// Attaches `program` by a new link, and pins that where `pins` are given.
fn create(program: &mut Xdp, link: &Link, pins: Option<&Pins>) -> anyhow::Result<()> {
    let mode = match link.mode {
        XdpMode::Native => AyaMode::Driver,
        XdpMode::Generic => AyaMode::Skb,
    };
    let id = program.attach_to_if_index(link.index, mode).map_err(|error| explain(error, link))?;
    if let Some(pins) = pins {
        let taken: FdLink = program
            .take_link(id)?
            .try_into()
            .map_err(|_| anyhow!("{}: this kernel has no BPF links for XDP (5.9 or newer needed)", link.interface))?;
        let path = pins.link(link);
        taken.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
    }
    Ok(())
}

/// Replaces the program behind `link`'s pin, if there is one whose interface still exists.
fn replace(program: &mut Xdp, link: &Link, pins: &Pins) -> anyhow::Result<bool> {
    let path = pins.link(link);
    if !path.exists() {
        return Ok(false);
    }
    let pinned = PinnedLink::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let pinned: XdpLink = FdLink::from(pinned).try_into().with_context(|| path.display().to_string())?;
    match program.attach_to_link(pinned) {
        Ok(id) => {
            // The pin keeps the link: this handle may go.
            drop(program.take_link(id)?);
            Ok(true)
        }
        // The interface was deleted, and another has its name and index.
        Err(error) if errno(&error) == Some(Errno::NOLINK) => {
            pins.remove_link(link)?;
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("cannot replace the program on {}", link.interface)),
    }
}

/// Detaches the earlier links of the same interface, and tells them: a link's mode can't be changed, and a link of the
/// interface's former name or index is in the way too.
fn detach_others(link: &Link, pins: &Pins) -> anyhow::Result<Vec<Link>> {
    let mut others = pins.links()?;
    others.retain(|other| (other.interface == link.interface || other.index == link.index) && other != link);
    for other in &others {
        info!("{}: detaching the earlier program ({} XDP)", other.interface, other.mode_name());
        pins.remove_link(other)?;
    }
    Ok(others)
}

/// The error number behind a refusal of the kernel's.
fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw_os_error),
        _ => None,
    }
}

/// The kernel's refusal in an operator's words.
fn explain(error: ProgramError, link: &Link) -> anyhow::Error {
    let name = &link.interface;
    let what = match errno(&error) {
        Some(Errno::BUSY) => format!(
            "{name}: another XDP program is attached; see `ip link show dev {name}`, and remove it with `ip link set \
             dev {name} xdp off` or the tool that attached it"
        ),
        Some(Errno::OPNOTSUPP) if link.mode == XdpMode::Native => format!(
            "{name}: its driver has no native XDP; use an interface that has (see `weir doctor`), or set `xdp = \
             \"generic\"`, which works on every device and is several times slower"
        ),
        _ => format!("{name}: cannot attach in {} mode", link.mode_name()),
    };
    anyhow::Error::new(error).context(what)
}
