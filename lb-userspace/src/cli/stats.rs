//! `weir stats`.

use std::{thread, time::Duration};

use super::{
    context::Context,
    render::{self, View},
};
use crate::api::types::Stats;

/// Moves the cursor to the top left and erases everything.
const REDRAW: &str = "\x1b[H\x1b[2J";

pub fn once(context: &mut Context<'_>) -> anyhow::Result<()> {
    let stats = read(context)?;
    context.show(&stats, |stats, screen| render::stats(stats, View::Totals, screen))
}

/// Shows the totals once, then rates every `seconds`: redrawn in place on a terminal, appended otherwise.
///
/// Ends when the daemon does or when nobody reads any more.
pub fn watch(seconds: f64, context: &mut Context<'_>) -> anyhow::Result<()> {
    let mut before = read(context)?;
    show(&before, View::Totals, context)?;
    loop {
        thread::sleep(Duration::from_secs_f64(seconds));
        let now = read(context)?;
        show(&now, View::RatesSince(&before), context)?;
        before = now;
    }
}

fn read(context: &Context<'_>) -> anyhow::Result<Stats> {
    context.ask(async |client| client.stats().await)
}

fn show(stats: &Stats, view: View<'_>, context: &mut Context<'_>) -> anyhow::Result<()> {
    if context.json {
        return context.write_json(stats);
    }
    let table = render::stats(stats, view, context.screen);
    let frame = if context.screen.terminal { REDRAW } else { "" };
    context.write(&format!("{frame}{}\n{table}\n", render::moment(stats.at_unix_ms)))
}
