//! `weir detach`.

use super::{context::Context, render};
use crate::{
    api::{client::ClientError, types::Detached},
    dataplane::Pins,
};

/// Lets the daemon detach; without one, does it itself, for traffic outlives the daemon.
pub fn detach(context: &mut Context<'_>) -> anyhow::Result<()> {
    let asked = context.ask(async |client| client.detach().await);
    let detached = match (asked, &context.instance) {
        (Ok(detached), _) => detached,
        (Err(error), Some(instance)) if no_daemon(&error) => remove_pins(&Pins::of(instance))?.ok_or(error)?,
        (Err(error), _) => return Err(error),
    };
    context.show(&detached, render::detached)
}

fn no_daemon(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::NoDaemon(_)))
}

/// Detaches what the last daemon left; `None` if it left nothing.
fn remove_pins(pins: &Pins) -> anyhow::Result<Option<Detached>> {
    if !pins.directory().try_exists()? {
        return Ok(None);
    }
    // A daemon whose socket is elsewhere would go on as if nothing had happened.
    let _lock = pins.lock()?;
    let interfaces = pins.links()?.into_iter().map(|link| link.interface).collect();
    pins.remove_all()?;
    Ok(Some(Detached { interfaces }))
}
