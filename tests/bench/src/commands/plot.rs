//! `cargo xtask bench plot`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use weir_bench::plot::source;

/// Plots of reports, as SVG
#[derive(clap::Args)]
pub struct Args {
    /// Directory to write them to
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,

    /// What a benchmark has printed with --json, each of another benchmark
    #[arg(value_name = "REPORT", required = true)]
    reports: Vec<PathBuf>,
}

/// Draws all plots and then writes them.
pub fn run(arguments: Args) -> Result<bool> {
    let Args { out, reports } = arguments;
    let mut plots = BTreeMap::new();
    for report in &reports {
        for plot in source::plots(report)? {
            let twice = plots.insert(plot.name, plot.svg).is_some();
            ensure!(!twice, "{}: another report is of the same benchmark", report.display());
        }
    }
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    for (name, svg) in plots {
        let path = out.join(name);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(true)
}
