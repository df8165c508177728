//! CPUs: one for the balancer, the others for everything else, and how much of them is used.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Which CPUs of this machine are whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpus {
    /// That of the balancer: the last that may be used.
    pub balancer: usize,
    /// Those of clients, network and servers: all others. If there are none they share the balancer's.
    pub rest: Vec<usize>,
}

impl Cpus {
    /// Divides those that this thread may use.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn divide() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot tell which CPUs may be used")?;
        let mut rest: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        let balancer = rest.pop().context("no CPU may be used")?;
        if rest.is_empty() {
            rest.push(balancer);
        }
        Ok(Self { balancer, rest })
    }

    /// Whether the balancer has its CPU for itself.
    #[must_use]
    pub fn are_apart(&self) -> bool {
        !self.rest.contains(&self.balancer)
    }

    /// Keeps this thread, and what it will start, off the balancer's CPU.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn keep_off(&self) -> Result<()> {
        sched_setaffinity(None, &set(&self.rest)).context("cannot keep to some CPUs")
    }

    /// Does `job` in this thread on the balancer's CPU: what it starts stays there.
    ///
    /// # Errors
    /// The job fails, or the kernel refuses.
    pub fn on_balancers<T>(&self, job: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(None, &set(&[self.balancer])).context("cannot use the balancer's CPU")?;
        let outcome = job();
        self.keep_off()?;
        outcome
    }

    /// Moves `task` to the balancer's CPU.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn give_balancer(&self, task: Task) -> Result<()> {
        sched_setaffinity(Some(task.rustix()?), &set(&[self.balancer])).with_context(|| format!("move {task:?}"))
    }

    /// Moves `task` to the CPUs of the rest.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn give_rest(&self, task: Task) -> Result<()> {
        sched_setaffinity(Some(task.rustix()?), &set(&self.rest)).with_context(|| format!("move {task:?}"))
    }
}

fn set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    set
}

/// A process with all of its threads, or a thread of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task(i32);

impl Task {
    /// The task of this id.
    ///
    /// # Errors
    /// No task can have this id.
    pub fn new(id: u32) -> Result<Self> {
        let id = i32::try_from(id).context("process id")?;
        ensure!(id > 0, "process id 0");
        Ok(Self(id))
    }

    /// CPU time that it has used so far, to the nanosecond; interrupts that it was interrupted by are in it.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(self) -> Result<Duration> {
        let clock = clock_getcpuclockid(unistd::Pid::from_raw(self.0));
        let time = clock.and_then(clock_gettime).with_context(|| format!("CPU time of process {}", self.0))?;
        Ok(time.into())
    }

    fn rustix(self) -> Result<rustix::process::Pid> {
        rustix::process::Pid::from_raw(self.0).context("process id 0")
    }
}

/// CPU time of this machine, of all its CPUs, in which they were not idle; by the kernel's clock tick.
///
/// # Errors
/// /proc can't be read.
pub fn machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let ticks = busy_ticks(&stat).context("/proc/stat is not as expected")?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of many years are below 2^52")]
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The ticks of `user nice system idle iowait irq softirq …` that are neither idle nor another guest's.
fn busy_ticks(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = all.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Instant};

    use super::*;

    #[test]
    fn idle_and_stolen_ticks_are_not_busy() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\nintr 5\n";
        assert_eq!(busy_ticks(stat), Some(7_600_321));
        assert_eq!(busy_ticks("cpu  1 2 3\n"), None);
        assert_eq!(busy_ticks("intr 5\n"), None);
    }

    #[test]
    fn a_task_s_time_is_that_of_its_work() {
        let this = Task::new(std::process::id()).unwrap();
        let before = this.cpu_time().unwrap();
        let own = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(20) {}
        assert!(this.cpu_time().unwrap() > before);
        assert!(before <= Duration::try_from(own).unwrap());
        assert!(Task::new(0).is_err());
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        assert!(Task::new(ended.id()).unwrap().cpu_time().is_err());
    }

    #[test]
    fn the_last_cpu_is_the_balancer_s() {
        let cpus = Cpus::divide().unwrap();
        assert!(cpus.rest.iter().all(|cpu| *cpu <= cpus.balancer));
        assert_eq!(cpus.are_apart(), cpus.rest != [cpus.balancer]);
    }
}
