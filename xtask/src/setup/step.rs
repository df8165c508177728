//! One step of set-up: a shell command that is either run or shown.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::cargo;

/// How many of a failed step's last lines are shown.
const SHOWN_LINES: usize = 15;

/// Runs `$1` in the shell, while Debian's packages are kept from starting their services by a policy-rc.d that is
/// removed again, also after Ctrl-C. One that the administrator has put there stays as it is.
const WITHOUT_SERVICES: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi
eval "$1"
"#;

/// A shell command and what it is for.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does, as an imperative.
    pub what: String,
    pub command: String,
    /// Whether only the superuser can.
    pub root: bool,
}

/// Where the output of all steps goes.
pub struct Log {
    pub path: PathBuf,
}

impl Step {
    pub fn root(what: &str, command: &str) -> Self {
        Self { what: what.to_owned(), command: command.to_owned(), root: true }
    }

    pub fn user(what: &str, command: &str) -> Self {
        Self { what: what.to_owned(), command: command.to_owned(), root: false }
    }

    /// The command as the user should type it.
    pub fn as_user(&self, is_root: bool) -> String {
        if self.root && !is_root {
            self.command.split(" && ").map(|part| format!("sudo {part}")).collect::<Vec<_>>().join(" && ")
        } else {
            self.command.clone()
        }
    }

    /// Runs the command and shows on one line how long it takes; `live` for a terminal, which is updated in place.
    pub fn run(&self, log: &Log, live: bool) -> Result<()> {
        let start = Instant::now();
        let output = log.append(&self.command)?;
        let skip = fs::metadata(&log.path)?.len();
        print!("  {} ... ", self.what);
        io::stdout().flush()?;

        let (script, arguments) = if self.command.starts_with("apt-get") {
            (WITHOUT_SERVICES, vec!["sh", &self.command])
        } else {
            (self.command.as_str(), Vec::new())
        };
        let mut child = Command::new("sh")
            .args(["-ec", script])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("can't run sh")?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            thread::sleep(Duration::from_millis(100));
            if live {
                print!("\r  {} ... {} s ", self.what, start.elapsed().as_secs());
                io::stdout().flush()?;
            }
        };
        if live {
            print!("\r  {} ... ", self.what);
        }
        if status.success() {
            println!("done in {} s", start.elapsed().as_secs());
            return Ok(());
        }
        println!("failed");
        log.show_end(skip)?;
        bail!("can't {} (`{}`); the whole output is in {}", self.what, self.command, log.path.display());
    }
}

impl Log {
    pub fn create() -> Result<Self> {
        let path = cargo::target_dir()?.join("weir-setup.log");
        File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
        Ok(Self { path })
    }

    /// The log, open for the output of `command`.
    fn append(&self, command: &str) -> Result<File> {
        let mut file = File::options().append(true).open(&self.path)?;
        writeln!(file, "$ {command}")?;
        Ok(file)
    }

    /// Shows the last lines from byte `from` on.
    fn show_end(&self, from: u64) -> Result<()> {
        let text = fs::read(&self.path)?;
        let text = String::from_utf8_lossy(text.get(usize::try_from(from)?..).unwrap_or_default());
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)) {
            println!("    {line}");
        }
        Ok(())
    }
}
