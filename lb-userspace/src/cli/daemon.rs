//! The commands that load programs into the kernel: `weir run`, `weir preflight` and `weir decap`.

use super::{
    args::{Decap, Preflight, Run},
    context::Context,
};

#[cfg(feature = "object")]
pub fn run(args: &Run) -> anyhow::Result<()> {
    log::to_stderr(&args.log)?;
    crate::daemon::run(&args.config)
}

#[cfg(feature = "object")]
pub fn preflight(args: &Preflight, context: &mut Context<'_>) -> anyhow::Result<()> {
    let passed = crate::upgrade::preflight::run(&args.config)?;
    context.write(&(serde_json::to_string(&passed)? + "\n"))
}

#[cfg(feature = "object")]
pub fn decap(args: &Decap) -> anyhow::Result<()> {
    log::to_stderr(&args.log)?;
    crate::decap::run(crate::object::OBJECT, &args.interfaces, &args.sources, args.xdp)
}

#[cfg(not(feature = "object"))]
pub fn run(_: &Run) -> anyhow::Result<()> {
    Err(no_object())
}

#[cfg(not(feature = "object"))]
pub fn preflight(_: &Preflight, _: &mut Context<'_>) -> anyhow::Result<()> {
    Err(no_object())
}

#[cfg(not(feature = "object"))]
pub fn decap(_: &Decap) -> anyhow::Result<()> {
    Err(no_object())
}

#[cfg(not(feature = "object"))]
fn no_object() -> anyhow::Error {
    anyhow::anyhow!("this build has no eBPF programs in it: build it with --features object")
}

#[cfg(feature = "object")]
mod log {
    use std::{
        env,
        io::{self, IsTerminal},
    };

    use anyhow::Context as _;
    use tracing_subscriber::EnvFilter;

    /// Logs to standard error what `filter` lets through. journald adds the time itself.
    pub fn to_stderr(filter: &str) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter}"))?;
        let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
        if env::var_os("JOURNAL_STREAM").is_some() {
            log.without_time().init();
        } else {
            log.init();
        }
        Ok(())
    }
}
