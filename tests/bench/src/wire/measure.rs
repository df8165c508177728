//! Measuring rows: every wire in turn, round after round, and what became of the frames checked.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::{ProgramInfo, loaded_programs},
    sys::{Stats as Statistics, enable_stats},
};
use weir_lab::WeirDaemon;
use weir_packets::world::World;

use super::{
    ends::{Arrived, Ends, Sent},
    report::{Figures, RowReport},
    verify::{Counted, Lost, Passage},
    wires::{Wire, Wires, stats},
};
use crate::{
    packet::{
        frames,
        generator::ensure_no_statistics,
        rows::{Row, Setting},
        world::world,
    },
    spread::Spread,
};

/// Part of the time of a measurement that the kernel's own clock takes, as that only tells of single runs.
const TIMED: f64 = 0.2;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Measurements of each program in each row, 1 or more; one before them is not counted.
    pub rounds: u32,
    /// Time of each measurement.
    pub time: Duration,
    /// The balancer's binary.
    pub weir: PathBuf,
}

/// The benchmark, ready to measure rows.
pub struct Bench {
    options: Options,
    // Dropped in this order: nothing is attached or runs when the namespaces go.
    ends: Ends,
    weir: Option<(Setting, Balancer)>,
    wires: Wires,
}

/// Weir, running.
struct Balancer {
    daemon: WeirDaemon,
    world: World,
}

/// A measurement.
struct Measured {
    sent: Sent,
    /// Frames that came through.
    arrived: u64,
    lost: Lost,
}

impl Bench {
    /// Makes the namespaces and attaches what measures.
    ///
    /// # Errors
    /// The kernel refuses, or takes times of programs itself.
    pub fn new(options: Options) -> Result<Self> {
        ensure!(options.rounds > 0 && !options.time.is_zero(), "at least one round has to take some time");
        ensure_no_statistics()?;
        let wires = Wires::make(&options.weir)?;
        let ends = Ends::attach(&wires)?;
        Ok(Self { options, ends, weir: None, wires })
    }

    /// Measures `row`. Where anything did not happen as expected there is an error instead of figures.
    pub fn row(&mut self, row: &Row) -> RowReport {
        let (programs, error) = match self.try_row(row) {
            Ok(programs) => (programs, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        RowReport { name: row.to_string(), programs, error }
    }

    fn try_row(&mut self, row: &Row) -> Result<Vec<Figures>> {
        let balancer = match self.weir.take() {
            Some((setting, balancer)) if setting == row.setting => balancer,
            other => {
                if let Some((_, mut balancer)) = other {
                    balancer.daemon.terminate()?;
                }
                let world = world(&row.setting);
                Balancer { daemon: self.wires.start_weir(&world)?, world }
            }
        };
        let (_, balancer) = self.weir.insert((row.setting, balancer));
        self.ends.set_recipe(&frames::recipe(row))?;
        let mut run = Run { row, ends: &mut self.ends, wires: &self.wires, balancer };
        let measured = run.rounds(&self.options)?;
        let run_times = run.run_times(self.options.time.mul_f64(TIMED))?;
        figures(&measured, &run_times)
    }
}

/// A row being measured.
struct Run<'a> {
    row: &'a Row,
    ends: &'a mut Ends,
    wires: &'a Wires,
    balancer: &'a Balancer,
}

impl Run<'_> {
    /// Measures every wire in every round; the measurements of each.
    fn rounds(&mut self, options: &Options) -> Result<[Vec<Measured>; Wire::ALL.len()]> {
        let mut all = Wire::ALL.map(|_| Vec::new());
        for round in 0..=options.rounds {
            for (wire, measured) in Wire::ALL.into_iter().zip(&mut all) {
                let one = self.measure(wire, options.time).with_context(|| wire.to_string())?;
                // The first round fills caches.
                if round > 0 {
                    measured.push(one);
                }
            }
        }
        Ok(all)
    }

    /// Sends frames into `wire` for `time`, and accounts for all of them.
    fn measure(&mut self, wire: Wire, time: Duration) -> Result<Measured> {
        let (received, arrived) = (self.wires.received(wire)?, self.ends.arrived()?);
        let counters = stats(&self.balancer.daemon)?;
        let sent = self.ends.send(self.wires, wire, time)?;
        let counted = Counted::between(&counters, &stats(&self.balancer.daemon)?)?;
        let passage = Passage {
            sent: sent.frames,
            received: self.wires.received(wire)? - received,
            arrived: difference(&arrived, &self.ends.arrived()?),
        };
        let lost = match wire {
            Wire::Swap => passage.through_swap(),
            Wire::Drop => passage.through_drop(),
            Wire::Weir => {
                let service = self.balancer.world.services.first().context("no service")?;
                passage.through_weir(self.row, service, &counted)
            }
        }?;
        let arrived = if wire == Wire::Drop { passage.received } else { passage.at_sink() };
        ensure!(arrived > 0, "no frame came through");
        Ok(Measured { sent, arrived, lost })
    }

    /// Nanoseconds of a run of the program at the end of each wire, while frames are sent for `time`.
    fn run_times(&mut self, time: Duration) -> Result<[f64; Wire::ALL.len()]> {
        let mut all = [0.0; Wire::ALL.len()];
        // Until this is dropped.
        let _statistics = enable_stats(Statistics::RunTime).context("the kernel takes no times of programs")?;
        for (wire, run_time) in Wire::ALL.into_iter().zip(&mut all) {
            let id = self.wires.program_id(wire)?;
            let before = info(id)?;
            let measured = self.measure(wire, time).with_context(|| wire.to_string())?;
            let after = info(id)?;
            let (runs, received) =
                (after.run_count() - before.run_count(), measured.sent.frames - measured.lost.before);
            ensure!(runs == received, "{wire}: the kernel counted {runs} runs for {received} frames");
            *run_time = per(after.run_time().saturating_sub(before.run_time()).as_secs_f64() * 1e9, runs);
        }
        Ok(all)
    }
}

/// What the kernel knows of the program `id`.
fn info(id: u32) -> Result<ProgramInfo> {
    // A program that is just being unloaded is no concern of this one.
    let mut programs = loaded_programs().filter_map(std::result::Result::ok);
    programs.find(|program| program.id() == id).with_context(|| format!("there is no program {id}"))
}

/// `after` without `before`.
fn difference(before: &[Arrived], after: &[Arrived]) -> Vec<Arrived> {
    let since = |(before, after): (&Arrived, &Arrived)| Arrived {
        frames: after.frames - before.frames,
        bytes: after.bytes - before.bytes,
    };
    before.iter().zip(after).map(since).collect()
}

/// The figures of all wires, from the measurements of each and the times that the kernel took.
fn figures(measured: &[Vec<Measured>; 3], run_times: &[f64; 3]) -> Result<Vec<Figures>> {
    let per_cpu: Vec<Vec<f64>> =
        measured.iter().map(|rounds| rounds.iter().map(|one| rate(one.arrived, one.sent.cpu)).collect()).collect();
    let swap = Wire::ALL.iter().position(|wire| *wire == Wire::Swap).context("no floor")?;
    let mut all = Vec::new();
    for (at, (wire, rounds)) in Wire::ALL.iter().zip(measured).enumerate() {
        let of = |figure: &dyn Fn(&Measured) -> f64| {
            Spread::of(&rounds.iter().map(figure).collect::<Vec<_>>()).context("no rounds")
        };
        let ratios: Vec<f64> = per_cpu[at].iter().zip(&per_cpu[swap]).map(|(one, floor)| one / floor).collect();
        all.push(Figures {
            program: wire.to_string(),
            sent: of(&|one| rate(one.sent.frames, one.sent.wall))?,
            arrived: of(&|one| rate(one.arrived, one.sent.wall))?,
            cpus: of(&|one| one.sent.cpu.as_secs_f64() / one.sent.wall.as_secs_f64())?,
            arrived_per_cpu: Spread::of(&per_cpu[at]).context("no rounds")?,
            ratio: Spread::of(&ratios).context("no rounds")?,
            lost_before: rounds.iter().map(|one| one.lost.before).sum(),
            lost_behind: rounds.iter().map(|one| one.lost.behind).sum(),
            run_time: run_times[at],
        });
    }
    Ok(all)
}

/// `count` for each second of `time`.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 frames can be sent")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// `sum` for each of `count`.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 frames can be sent")]
fn per(sum: f64, count: u64) -> f64 {
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rates_and_ratios_of_the_same_round() {
        let one = |arrived, wall, cpu, before| Measured {
            sent: Sent { frames: 1_000, wall: Duration::from_millis(wall), cpu: Duration::from_millis(cpu) },
            arrived,
            lost: Lost { before, behind: 1_000 - before - arrived },
        };
        // The second round has half a CPU.
        let swap = vec![one(1_000, 100, 100, 0), one(1_000, 200, 100, 0)];
        let drop = vec![one(1_000, 50, 50, 0), one(1_000, 100, 50, 0)];
        let weir = vec![one(800, 200, 200, 150), one(1_000, 400, 200, 0)];
        let all = figures(&[swap, drop, weir], &[20.0, 10.0, 60.0]).unwrap();
        let names: Vec<&str> = all.iter().map(|figures| figures.program.as_str()).collect();
        assert_eq!(names, ["MAC swap", "drop", "weir"]);
        let spread = |figures: [f64; 2]| Spread::of(&figures).unwrap();
        assert_eq!(all[0].ratio, spread([1.0, 1.0]));
        assert_eq!(all[1].ratio, spread([2.0, 2.0]));
        let weir = &all[2];
        assert_eq!(weir.sent, spread([5_000.0, 2_500.0]));
        assert_eq!(weir.arrived, spread([4_000.0, 2_500.0]));
        assert_eq!(weir.cpus, spread([1.0, 0.5]));
        assert_eq!(weir.arrived_per_cpu, spread([4_000.0, 5_000.0]));
        assert_eq!(weir.ratio, spread([0.4, 0.5]));
        assert_eq!((weir.lost_before, weir.lost_behind, weir.run_time), (150, 50, 60.0));
    }
}
