//! What a command works with: where it writes, how, and whom it asks.

use std::{
    env,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::SystemTime,
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::args::Global;
use crate::api::{
    client::{Client, ClientError},
    types::Change,
};

/// Where output goes and how it is to look.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Whether it goes to a terminal, so that it can be redrawn.
    pub terminal: bool,
    /// Whether it may have colours.
    pub colour: bool,
    /// The time, for "5m ago".
    pub now: fn() -> SystemTime,
}

impl Screen {
    /// What standard output is. Colours are for terminals that can, unless `NO_COLOR` is set (<https://no-color.org>).
    #[must_use]
    pub fn detect() -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let incapable = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { terminal, colour: terminal && !unwanted && !incapable, now: SystemTime::now }
    }
}

/// What a command works with.
pub struct Context<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub screen: Screen,
    pub json: bool,
    /// The instance that is meant; `None` where its socket was named instead.
    pub instance: Option<String>,
    client: Client,
}

impl<'a> Context<'a> {
    pub fn new(global: &Global, out: &'a mut dyn Write, err: &'a mut dyn Write, screen: Screen) -> Self {
        let (instance, socket) = match &global.socket {
            Some(socket) => (None, socket.clone()),
            None => (Some(global.instance.clone()), default_socket(&global.instance)),
        };
        Self { out, err, screen, json: global.json, instance, client: Client::new(&socket) }
    }

    /// Asks the daemon.
    pub fn ask<T>(&self, ask: impl AsyncFnOnce(&Client) -> Result<T, ClientError>) -> anyhow::Result<T> {
        let runtime = Self::runtime()?;
        Ok(runtime.block_on(ask(&self.client))?)
    }

    /// What asynchronous code runs on.
    pub fn runtime() -> anyhow::Result<Runtime> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("can't start the asynchronous runtime")
    }

    /// The daemon.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Writes `value` as JSON, or as `render` has it for people.
    pub fn show<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        render: impl FnOnce(&T, Screen) -> String,
    ) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(value)? + "\n" } else { render(value, self.screen) };
        self.write(&text)
    }

    /// Writes `value` as one line of JSON, for output of many values.
    pub fn write_json<T: Serialize>(&mut self, value: &T) -> anyhow::Result<()> {
        self.write(&(serde_json::to_string(value)? + "\n"))
    }

    /// Writes what a change did; its warnings go to standard error.
    pub fn show_change(&mut self, change: &Change) -> anyhow::Result<()> {
        self.show(change, super::render::change)?;
        if !self.json {
            for warning in &change.warnings {
                writeln!(self.err, "weir: warning: {warning}")?;
            }
        }
        Ok(())
    }

    /// Writes `text` at once, however long the next part takes.
    pub fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }
}

fn default_socket(instance: &str) -> PathBuf {
    PathBuf::from(format!("/run/weir/{instance}.sock"))
}
