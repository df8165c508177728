//! Which labs exist, whose they are, and how they go: by name alone, so that it also works for a lab whose process
//! is dead.
//!
//! A lab `ID` is: namespaces `ID-*`, pins in /sys/fs/bpf/weir/ID, and /run/weir-lab/ID. The file `owner` in there is
//! locked by the process that made the lab for as long as that lives.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    netns::{NETNS_DIR, Netns},
    process::run,
};

const STATE_DIR: &str = "/run/weir-lab";
const PIN_DIR: &str = "/sys/fs/bpf/weir";

/// Read-locked by whoever makes or removes something; the interrupt handler write-locks it and never gives it back,
/// so that nothing comes after its clean-up and the interrupted work has no say any more.
static GATE: RwLock<()> = RwLock::new(());

/// The labs of this process.
static LABS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Permission to make or remove something, for as long as it is held.
pub(crate) fn gate() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

fn labs() -> MutexGuard<'static, Vec<String>> {
    LABS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lab's name, taken: dropped, everything that bears it is removed.
#[derive(Debug)]
pub(crate) struct Claim {
    id: String,
    /// Locked; see the module.
    _owner: File,
}

impl Claim {
    /// Takes the name `id` and makes its directory.
    ///
    /// # Errors
    /// The name is taken.
    pub(crate) fn new(id: &str) -> Result<Self> {
        let _gate = gate();
        let dir = directory(id);
        // Made under another name first: a directory under its final name always has its locked owner.
        let unnamed = Path::new(STATE_DIR).join(format!(".{id}"));
        remove_dir(&unnamed)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&unnamed).context("make the lab's directory")?;
        let owner = File::create(unnamed.join("owner"))?;
        owner.lock()?;
        if let Err(error) = fs::rename(&unnamed, &dir) {
            remove_dir(&unnamed)?;
            if error.kind() == ErrorKind::DirectoryNotEmpty {
                bail!("lab {id} is up already: cargo xtask lab down removes it");
            }
            return Err(error).with_context(|| dir.display().to_string());
        }
        labs().push(id.to_owned());
        Ok(Self { id: id.to_owned(), _owner: owner })
    }

    /// The lab's name.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The lab's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        directory(&self.id)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _gate = gate();
        if let Err(error) = remove(&self.id) {
            eprintln!("lab {} is not removed whole: {error:#}", self.id);
        }
        labs().retain(|id| *id != self.id);
    }
}

/// Labs that no living process owns.
pub(crate) fn abandoned() -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for id in entries(Path::new(STATE_DIR))? {
        if id.starts_with('.') {
            continue;
        }
        match File::open(directory(&id).join("owner")).map(|owner| owner.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => {}
            _ => ids.push(id),
        }
    }
    Ok(ids)
}

/// Removes lab `id`: its processes, namespaces, pins and files. Nothing to remove is no error.
pub(crate) fn remove(id: &str) -> Result<()> {
    let namespaces = namespaces_of(id)?;
    kill_all(&namespaces)?;
    for namespace in &namespaces {
        run(Command::new("ip").args(["netns", "delete", namespace.name()]), "")?;
    }
    remove_dir(&Path::new(PIN_DIR).join(id))?;
    remove_dir(&directory(id))
}

/// From now on SIGINT, SIGTERM and SIGHUP remove this process's labs and end it with status 130.
///
/// # Errors
/// There is a handler already.
pub fn remove_on_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        let gate = GATE.write();
        eprintln!("\nInterrupted: removing the lab.");
        for id in labs().iter() {
            if let Err(error) = remove(id) {
                eprintln!("lab {id} is not removed whole: {error:#}");
            }
        }
        // exit() must come before the gate opens.
        std::mem::forget(gate);
        process::exit(130);
    })
    .context("set the signal handler")
}

/// The directory of lab `id`.
pub(crate) fn directory(id: &str) -> PathBuf {
    Path::new(STATE_DIR).join(id)
}

fn namespaces_of(id: &str) -> Result<Vec<Netns>> {
    Ok(nodes_of(id)?.into_iter().filter_map(|node| Netns::existing(format!("{id}-{node}"))).collect())
}

/// The names of lab `id`'s nodes: `b1`, `c1`, `lb`, `router`.
pub(crate) fn nodes_of(id: &str) -> Result<Vec<String>> {
    let prefix = format!("{id}-");
    let names = entries(Path::new(NETNS_DIR))?;
    let mut nodes: Vec<_> = names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect();
    nodes.sort();
    Ok(nodes)
}

fn kill_all(namespaces: &[Netns]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let pids: Vec<i32> = namespaces.iter().flat_map(Netns::pids).collect();
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {pids:?} survive SIGKILL");
        }
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            // It fails when the process has gone by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| dir.display().to_string())?,
    };
    listing.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| dir.display().to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead as _, BufReader},
        process::{Child, ExitStatus, Stdio},
    };

    use super::*;
    use crate::{Lab, requirements};

    /// Not a test of its own: what the others do to a lab's process, they do to one that runs this.
    #[test]
    #[ignore = "the other tests run it in a process of its own"]
    fn make_a_lab_and_wait() {
        remove_on_signals().unwrap();
        let lab = Lab::builder().build().unwrap();
        println!("\nlab={}", lab.id());
        thread::sleep(Duration::from_mins(1));
    }

    /// A process that has made a lab, and that lab's id.
    fn other_process() -> (Child, String) {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "cleanup::tests::make_a_lab_and_wait", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let id = lines.find_map(|line| line.strip_prefix("lab=").map(str::to_owned)).unwrap();
        (child, id)
    }

    fn end(mut child: Child, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap()
    }

    #[test]
    fn an_interrupted_process_removes_its_lab() {
        if !requirements::are_met() {
            return;
        }
        for signal in [Signal::INT, Signal::TERM] {
            let (child, id) = other_process();
            assert!(!nodes_of(&id).unwrap().is_empty());
            assert_eq!(end(child, signal).code(), Some(130));
            assert_eq!(nodes_of(&id).unwrap(), [""; 0]);
            assert!(!directory(&id).exists());
        }
    }

    #[test]
    fn a_lab_is_abandoned_when_its_process_is_dead() {
        if !requirements::are_met() {
            return;
        }
        let (child, id) = other_process();
        assert!(!abandoned().unwrap().contains(&id), "it is in use");
        assert_eq!(end(child, Signal::KILL).code(), None);
        assert!(abandoned().unwrap().contains(&id));
        let servers: Vec<_> = namespaces_of(&id).unwrap().iter().flat_map(Netns::pids).collect();
        assert!(!servers.is_empty(), "nginx outlives its lab's process");
        remove(&id).unwrap();
        assert!(!abandoned().unwrap().contains(&id));
        assert_eq!(nodes_of(&id).unwrap(), [""; 0]);
        assert!(servers.iter().all(|pid| !Path::new(&format!("/proc/{pid}/exe")).exists()), "{servers:?}");
    }
}
