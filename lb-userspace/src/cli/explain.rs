//! `weir explain`.

use super::{args::Explain, context::Context, render};
use crate::api::explain::Flow;

pub fn explain(flow: &Explain, context: &mut Context<'_>) -> anyhow::Result<()> {
    let flow = Flow { source: flow.source, destination: flow.destination, protocol: flow.protocol };
    let explanation = context.ask(async |client| client.explain(&flow).await)?;
    context.show(&explanation, render::explanation)
}
