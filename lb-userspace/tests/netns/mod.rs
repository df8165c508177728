//! Network namespaces for tests: nameless, so that nothing is left behind whatever becomes of the test.

use std::{
    fs::File,
    process::{Command, Output},
    thread,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::geteuid,
};

/// Whether the caller can make namespaces; prints that the test is skipped if not.
pub fn can_make_namespaces() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// A network namespace that lives as long as this value.
pub struct Namespace {
    handle: File,
}

impl Namespace {
    pub fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            File::open("/proc/thread-self/ns/net").expect("namespace handle")
        };
        let namespace = Self { handle: thread::spawn(make).join().expect("namespace thread") };
        namespace.run("ip link set lo up");
        namespace
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command inside and returns its standard output; fails the test if it fails.
    pub fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command inside.
    pub fn try_run(&self, command: &str) -> Output {
        let mut words = command.split_whitespace();
        let program = words.next().expect("a command");
        self.enter(|| Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{command}: {error}")))
    }

    /// Makes a veth pair: `name` here, `peer_name` in `peer`; both up.
    pub fn connect(&self, name: &str, peer: &Self, peer_name: &str) {
        // A namespace is named by a task in it: a thread that waits until the link has moved.
        peer.enter(|| {
            let task = nix::unistd::gettid();
            self.run(&format!("ip link add {name} type veth peer name {peer_name} netns {task}"));
        });
        self.run(&format!("ip link set {name} up"));
        peer.run(&format!("ip link set {peer_name} up"));
    }
}
