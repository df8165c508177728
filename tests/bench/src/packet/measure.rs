//! Measuring rows: every program in turn, round after round, and what it did checked.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use aya::programs::ProgramFd;

use super::{
    balancer::Balancer,
    frames,
    generator::{self, Floor, Generator, Kind},
    report::{Figures, RowReport},
    rows::{self, Row, Setting},
    verify::{self, Program},
};
use crate::{cpu, spread::Spread};

/// What tables call the program under test.
pub const WEIR: &str = "weir";

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Measurements of each program in each row, 1 or more; one before them is not counted.
    pub rounds: u32,
    /// Packets of each measurement, 1 or more.
    pub packets: u32,
    /// Pins of other XDP programs that are measured in every row.
    pub external: Vec<PathBuf>,
}

/// The benchmark, ready to measure rows.
pub struct Bench {
    options: Options,
    generator: Generator,
    external: Vec<(String, ProgramFd)>,
    /// What the last row was measured with.
    balancer: Option<(Setting, Balancer)>,
}

impl Bench {
    /// Loads what measures, and ties this thread to one CPU.
    ///
    /// # Errors
    /// The kernel refuses, takes times of programs itself, or has no program at a pin.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        ensure!(options.rounds > 0 && options.packets > 0, "at least one packet in one round has to be measured");
        generator::ensure_no_statistics()?;
        cpu::stay_on_one()?;
        let generator = Generator::load()?;
        let open = |pin: &PathBuf| Ok((pin.display().to_string(), generator::open_pinned(pin)?));
        let external = options.external.iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Self { options, generator, external, balancer: None })
    }

    /// Measures `row`. Where anything did not happen as expected there is an error instead of figures.
    pub fn row(&mut self, row: &Row) -> RowReport {
        let (programs, error) = match self.try_row(row) {
            Ok(programs) => (programs, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        RowReport { name: row.to_string(), programs, error }
    }

    fn try_row(&mut self, row: &Row) -> anyhow::Result<Vec<Figures>> {
        ensure!(frames::fits(row), "its addresses don't fit, or it has replies without nat");
        let balancer = match self.balancer.take() {
            Some((setting, balancer)) if setting == row.setting => balancer,
            // The old one's memory is given back first.
            other => {
                drop(other);
                Balancer::load(&row.setting)?
            }
        };
        let (_, balancer) = self.balancer.insert((row.setting, balancer));
        let mut run = Run { row, generator: &mut self.generator, external: &self.external, balancer };
        run.open_flows()?;
        run.generator.set_recipe(&frames::recipe(row))?;
        run.check_samples()?;
        let before = run.balancer.counters()?;
        let took = run.rounds(&self.options)?;
        // One more for the round before the first.
        verify::counters(row, run.balancer, &before, self.options.packets, self.options.rounds + 1)?;
        figures(&run.programs(), &took, self.options.packets)
    }
}

/// A row being measured.
struct Run<'a> {
    row: &'a Row,
    generator: &'a mut Generator,
    external: &'a [(String, ProgramFd)],
    balancer: &'a mut Balancer,
}

impl Run<'_> {
    /// What is measured, in the order of every round; the first is what net figures leave out.
    fn programs(&self) -> Vec<Program> {
        let floors = Floor::ALL.into_iter().map(Program::Floor);
        let external = (0..self.external.len()).map(|at| Program::External(at, self.external[at].0.clone()));
        floors.chain([Program::Weir]).chain(external).collect()
    }

    /// Puts `program` behind the generator.
    fn choose(&mut self, program: &Program) -> anyhow::Result<Kind> {
        match program {
            Program::Floor(floor) => self.generator.measure_floor(*floor),
            Program::Weir => self.generator.measure(self.balancer.program()?),
            Program::External(at, _) => self.generator.measure(&self.external[*at].1),
        }
    }

    /// Opens every flow where flows are tracked, so that those that are to have an entry have it.
    fn open_flows(&mut self) -> anyhow::Result<()> {
        if self.row.setting.tracked > 0 {
            let opening = Row { kind: rows::Kind::Syn, ..self.row.clone() };
            self.generator.set_recipe(&frames::recipe(&opening))?;
            let kind = self.choose(&Program::Weir)?;
            self.generator.run(kind, 1 << self.row.flow_bits)?;
        }
        Ok(())
    }

    /// Sends some packets through every program, one by one, and looks at what comes out.
    fn check_samples(&mut self) -> anyhow::Result<()> {
        for program in self.programs() {
            let kind = self.choose(&program)?;
            for position in verify::sample() {
                let (action, after) = self.generator.run_once(kind, position)?;
                verify::packet(self.row, &self.balancer.world, &program, position, action, after)
                    .with_context(|| format!("{program}: packet {position}"))?;
            }
        }
        Ok(())
    }

    /// Measures every program in every round. What each took, by program and round.
    fn rounds(&mut self, options: &Options) -> anyhow::Result<Vec<Vec<Duration>>> {
        let programs = self.programs();
        let mut took = vec![Vec::new(); programs.len()];
        for round in 0..=options.rounds {
            for (program, took) in programs.iter().zip(&mut took) {
                let kind = self.choose(program)?;
                let (action, time) = self.generator.run(kind, options.packets)?;
                let expected = program.action(self.row);
                ensure!(action == expected, "{program}: {action:?} in place of {expected:?}");
                // The first round fills caches.
                if round > 0 {
                    took.push(time);
                }
            }
        }
        Ok(took)
    }
}

/// The figures of all `programs`, from what each took in each round for `packets` packets.
fn figures(programs: &[Program], took: &[Vec<Duration>], packets: u32) -> anyhow::Result<Vec<Figures>> {
    let gross: Vec<Vec<f64>> = took
        .iter()
        .map(|rounds| rounds.iter().map(|time| time.as_secs_f64() * 1e9 / f64::from(packets)).collect())
        .collect();
    let of = |floor| programs.iter().position(|program| *program == Program::Floor(floor));
    let (Some(transmit), Some(encapsulate)) = (of(Floor::Transmit), of(Floor::Encapsulate)) else {
        anyhow::bail!("the floors were not measured");
    };
    let net = |program: usize| -> Vec<f64> {
        gross[program].iter().zip(&gross[transmit]).map(|(gross, floor)| gross - floor).collect()
    };
    // Of one round it would be little more than noise: it is the difference of two figures that are hardly apart.
    let floor = Spread::of(&net(encapsulate)).context("no rounds")?.median;
    let mut all = Vec::new();
    for (at, program) in programs.iter().enumerate() {
        let net = Spread::of(&net(at)).context("no rounds")?;
        all.push(Figures {
            program: program.to_string(),
            gross: Spread::of(&gross[at]).context("no rounds")?,
            net,
            ratio: (floor > 0.0).then(|| net.divided_by(floor)),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_taken_round_by_round() {
        let programs: Vec<Program> = Floor::ALL.into_iter().map(Program::Floor).chain([Program::Weir]).collect();
        let micros = |rounds: [u64; 3]| rounds.map(Duration::from_micros).to_vec();
        // The second round is twice as slow for everybody.
        let took = [[10, 20, 10], [12, 24, 12], [14, 28, 14], [20, 40, 20], [35, 80, 30]].map(micros);
        let figures = figures(&programs, &took, 1000).unwrap();
        let weir = figures.last().unwrap();
        assert_eq!(weir.program, WEIR);
        let spread = |figures: [f64; 3]| Spread::of(&figures).unwrap();
        let close = |a: Spread, b: Spread| {
            [(a.min, b.min), (a.median, b.median), (a.max, b.max)].iter().all(|(a, b)| (a - b).abs() < 1e-9)
        };
        assert!(close(weir.gross, spread([30.0, 35.0, 80.0])), "{weir:?}");
        assert!(close(weir.net, spread([20.0, 25.0, 60.0])), "{weir:?}");
        assert!(close(weir.ratio.unwrap(), spread([2.0, 2.5, 6.0])), "{weir:?}");
        assert!(close(figures[0].net, spread([0.0; 3])));
    }

    #[test]
    fn there_is_no_ratio_to_a_floor_of_nothing() {
        let programs: Vec<Program> = Floor::ALL.into_iter().map(Program::Floor).chain([Program::Weir]).collect();
        let took = [10, 10, 10, 10, 20].map(|micros| vec![Duration::from_micros(micros)]);
        assert!(figures(&programs, &took, 1000).unwrap().iter().all(|figures| figures.ratio.is_none()));
    }
}
