//! What one binary hands to the next one in the same process: who it was, so that there is a way back.
//!
//! It goes by an environment variable, with open files whose descriptors it names: the executable of before, which is
//! there whatever has become of its file, and the configuration that the daemon of before ran with.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{Next, VERSION};
use crate::api::types::{LastUpgrade, unix_ms};

/// The environment variable that it goes by.
pub const VARIABLE: &str = "WEIR_HANDOVER";

/// Within this time a new daemon must be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// What goes by the variable, as JSON. Versions hand it to each other: fields are only ever added.
#[derive(Debug, Serialize, Deserialize)]
struct Handed {
    /// The process that it is for; who inherits the environment is not meant.
    pid: u32,
    at_unix_ms: u64,
    from: String,
    to: String,
    binary: PathBuf,
    /// Descriptor of the configuration that the old daemon ran with.
    config: RawFd,
    /// Descriptor of the old executable, where there is a way back to it.
    old: Option<RawFd>,
    /// Why the new daemon could not take over: the old one goes on then.
    failure: Option<String>,
}

/// What this process was before.
#[derive(Debug)]
pub enum Inherited {
    /// Another daemon, to which there is a way back.
    Predecessor(Predecessor),
    /// This daemon, and in between one that failed.
    Returned {
        /// What was tried.
        upgrade: LastUpgrade,
        /// The configuration that the daemon ran with.
        config: Vec<u8>,
    },
}

impl Inherited {
    /// What was handed to this process; `None` where it was started afresh. To be called once.
    pub fn take() -> Option<Self> {
        let handed = serde_json::from_str::<Handed>(&env::var(VARIABLE).ok()?);
        let handed = handed.inspect_err(|error| warn!("{VARIABLE} is not understood: {error}")).ok()?;
        if handed.pid != std::process::id() {
            return None;
        }
        let config = adopt(handed.config);
        match (handed.old, handed.failure.is_some()) {
            (Some(old), false) => Some(Self::Predecessor(Predecessor::new(handed, adopt(old), config))),
            (None, true) => {
                let config = contents(config).inspect_err(|error| error!("the configuration is lost: {error}")).ok()?;
                Some(Self::Returned { upgrade: handed.outcome(), config })
            }
            _ => None,
        }
    }
}

impl Handed {
    /// How the upgrade has ended, now.
    fn outcome(&self) -> LastUpgrade {
        LastUpgrade {
            at_unix_ms: self.at_unix_ms,
            took_ms: unix_ms(SystemTime::now()).saturating_sub(self.at_unix_ms),
            from: self.from.clone(),
            to: self.to.clone(),
            binary: self.binary.clone(),
            failure: self.failure.clone(),
        }
    }

    /// Executes `program` with the arguments of this process; it gets this and the files that it names. Returns only if
    /// that fails.
    fn exec(&self, program: &Path, name: &OsStr, files: &[&File]) -> anyhow::Error {
        let prepared = || -> anyhow::Result<String> {
            for file in files {
                fcntl_setfd(file, FdFlags::empty())?;
            }
            Ok(serde_json::to_string(self)?)
        };
        match prepared() {
            Ok(handed) => {
                let mut command = Command::new(program);
                command.arg0(name).args(env::args_os().skip(1)).env(VARIABLE, handed).exec().into()
            }
            Err(error) => error,
        }
    }
}

/// Becomes `next`; `config` is the configuration that this daemon ran with. Where that fails, this binary is executed
/// anew and tells why. Returns only if that fails too.
pub fn pass_on(next: Next, config: &[u8]) -> anyhow::Error {
    let prepared = || -> anyhow::Result<(File, File)> {
        let old = File::open("/proc/self/exe").context("can't open the running executable")?;
        let mut kept = File::from(memfd_create("weir.toml", MemfdFlags::CLOEXEC)?);
        kept.write_all(config)?;
        Ok((old, kept))
    };
    let (old, kept) = match prepared() {
        Ok(files) => files,
        Err(error) => return error.context("can't prepare the way back"),
    };
    let handed = Handed {
        pid: std::process::id(),
        at_unix_ms: next.at_unix_ms,
        from: VERSION.to_owned(),
        to: next.version,
        binary: next.binary.clone(),
        config: kept.as_raw_fd(),
        old: Some(old.as_raw_fd()),
        failure: None,
    };
    let error = handed.exec(&next.binary, next.binary.as_os_str(), &[&old, &kept]);
    WayBack { handed, old, config: kept }.go(&format!("it can't be executed: {error:#}"))
}

/// The executable that this process ran before, for as long as there is a way back to it. Clones share it.
#[derive(Clone, Debug)]
pub struct Predecessor(Arc<Mutex<Option<WayBack>>>);

#[derive(Debug)]
struct WayBack {
    handed: Handed,
    old: File,
    config: File,
}

impl Predecessor {
    fn new(handed: Handed, old: File, config: File) -> Self {
        Self(Arc::new(Mutex::new(Some(WayBack { handed, old, config }))))
    }

    fn take(&self) -> Option<WayBack> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives up the way back, for the new daemon is ready: how the upgrade went. `None` if that was done before.
    pub fn dismiss(&self) -> Option<LastUpgrade> {
        self.take().map(|way_back| way_back.handed.outcome())
    }

    /// Executes the old binary again, which is told `why`. Returns only if there is no way back, or that fails.
    pub fn go_back(&self, why: &str) {
        if let Some(way_back) = self.take() {
            error!("the upgrade failed, going back to version {}: {why}", way_back.handed.from);
            let error = way_back.go(why);
            error!("can't go back: {error:#}");
        }
    }

    /// Goes back if the new daemon is not ready in time, whatever it is stuck in.
    pub fn watch(&self) {
        let watched = self.clone();
        thread::spawn(move || {
            thread::sleep(PATIENCE);
            watched.go_back(&format!("it was not ready within {} s", PATIENCE.as_secs()));
        });
    }
}

impl WayBack {
    fn go(self, why: &str) -> anyhow::Error {
        let Self { handed, old, config } = self;
        let program = PathBuf::from(format!("/proc/self/fd/{}", old.as_raw_fd()));
        let handed = Handed { old: None, failure: Some(why.to_owned()), ..handed };
        if let Err(error) = fcntl_setfd(&old, FdFlags::CLOEXEC) {
            return error.into();
        }
        handed.exec(&program, OsStr::new("weir"), &[&config])
    }
}

/// Gives this process the name of the binary: going back, the kernel named it after a descriptor.
pub fn take_back_name() {
    if let Err(error) = rustix::thread::set_name(c"weir") {
        warn!("this process has a strange name: {error}");
    }
}

/// The file that was left open as `descriptor` for this process.
fn adopt(descriptor: RawFd) -> File {
    // SAFETY: the binary that this process ran before opened it, for this call alone.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    if let Err(error) = fcntl_setfd(&file, FdFlags::CLOEXEC) {
        warn!("an open file is left to children: {error}");
    }
    file
}

fn contents(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
