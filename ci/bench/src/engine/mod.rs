//! The engine beside llama.cpp, transformers, onnxruntime and sentence-transformers: the same weights, the same threads, the
//! same texts, in turns.
//!
//! ```text
//! stage/measure ........ ours (guest/engine/examples/measure.rs)      peers: ci/reference/peers/*.py
//! stage/decoder-*/ ..... random weights of Qwen3-0.6B's shape         stage/decoder-*.gguf, the same weights
//! stage/decoder-int8/ .. decoder-f16 by our own `quantise`
//! gpu.rs, random.rs .... a report of its own (`--gpu`), on a machine with a GPU
//! ```
//! With one thread a number is processor time, which neighbours of this machine don't change much; with two it is
//! wall-clock time, because waiting for the other thread is part of it.

mod decoder;
mod embedder;
pub mod gpu;
mod process;
mod random;

use crate::report::{Limit, Number, Report, Unit};
use anyhow::{Context, Result};
use process::{Program, Taken};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where everything lies, and how often it is measured.
pub struct Stage {
    folder: PathBuf,
    scripts: PathBuf,
    rounds: usize,
    /// Versions of what was started.
    versions: BTreeMap<String, String>,
}

/// Measures all rows whose name contains one of `wanted`; all, where that is empty.
pub fn report(folder: &Path, rounds: usize, wanted: &[String]) -> Result<Report> {
    let before = crate::machine::load();
    let scripts = scripts()?;
    let mut stage = Stage { folder: folder.into(), scripts, rounds, versions: BTreeMap::new() };
    let mut numbers = embedder::measure(&mut stage, wanted);
    numbers.extend(decoder::measure(&mut stage, wanted));
    let versions = stage.versions.iter().map(|(name, version)| format!("{name} {version}"));
    let facts = vec![
        ("CPU", crate::machine::processor_here()),
        ("load when it began and ended", format!("{before}, {}", crate::machine::load())),
        ("versions", versions.collect::<Vec<_>>().join("; ")),
    ];
    Ok(Report { numbers, facts })
}

/// Where the peers' programs lie.
fn scripts() -> Result<PathBuf> {
    let checkout = std::env::var_os("CHRYSALIS_CHECKOUT").map(PathBuf::from);
    let checkout = checkout.context("CHRYSALIS_CHECKOUT is not set; start this with `cargo xtask bench`")?;
    Ok(checkout.join("ci/reference/peers"))
}

/// Whether a row was asked for.
fn asked(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
}

/// Which clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// Processor time of all threads.
    Cpu,
    /// Wall-clock time.
    Wall,
}

impl Clock {
    fn of_threads(threads: usize) -> Clock {
        if threads == 1 { Clock::Cpu } else { Clock::Wall }
    }

    fn name(self) -> &'static str {
        match self {
            Clock::Cpu => "processor time",
            Clock::Wall => "wall clock",
        }
    }

    /// Milliseconds for each that was counted.
    fn each(self, taken: &Taken) -> f64 {
        let seconds = match self {
            Clock::Cpu => taken.cpu,
            Clock::Wall => taken.wall,
        };
        seconds * 1e3 / taken.count
    }
}

impl Stage {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts our program; `more` are options behind folder, threads and context.
    fn ours(&mut self, model: &Path, threads: usize, context: usize, more: &[&str]) -> Result<Program> {
        let mut command = Command::new(self.path("measure"));
        command.arg(model).args([threads.to_string(), context.to_string()]).args(more);
        self.started("the engine", &mut command)
    }

    /// Starts a peer's script.
    fn peer(&mut self, script: &str, model: &Path, threads: usize, last: &str) -> Result<Program> {
        let mut command = Command::new("python3");
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("OMP_NUM_THREADS", threads.to_string());
        command.arg(self.scripts.join(script)).arg(model).arg(threads.to_string()).arg(last);
        self.started(script, &mut command)
    }

    fn started(&mut self, name: &str, command: &mut Command) -> Result<Program> {
        let program = Program::start(name, command)?;
        self.versions.extend(program.versions.clone());
        Ok(program)
    }

    /// A task by both, in turns, after one of each that does not count.
    fn turns(&self, ours: &mut Program, peer: &mut Program, task: &str) -> Result<Pairs> {
        ours.task(task)?;
        peer.task(task)?;
        let mut pairs = Pairs::default();
        for _ in 0..self.rounds {
            pairs.ours.push(ours.task(task)?);
            pairs.peer.push(peer.task(task)?);
        }
        Ok(pairs)
    }
}

/// What a task took, both ways.
#[derive(Default)]
struct Pairs {
    ours: Vec<Taken>,
    peer: Vec<Taken>,
}

impl Pairs {
    /// The row: time for each that was counted, and what the other clock says.
    fn number(&self, name: &'static str, peer: &str, clock: Clock, limit: Option<f64>, what: &str) -> Number {
        let values = |clock: Clock, taken: &[Taken]| -> Vec<f64> {
            taken.iter().map(|taken| clock.each(taken)).collect()
        };
        let other = if clock == Clock::Cpu { Clock::Wall } else { Clock::Cpu };
        let [ours, theirs] = [&self.ours, &self.peer].map(|taken| Number::median(&values(other, taken)));
        let number = Number::new(name, Unit::Milliseconds, &values(clock, &self.ours))
            .beside(peer, &values(clock, &self.peer))
            .covers(format!(
                "{what}; {}; by {} {ours:.1} ms where the peer has {theirs:.1} ms",
                clock.name(),
                other.name()
            ));
        match limit {
            Some(limit) => number.limit(Limit::TimesPeer(limit)),
            None => number,
        }
    }
}

/// A row that could not be taken: it meets no limit and says why.
fn failed(name: &'static str, limit: Option<f64>, error: &anyhow::Error) -> Number {
    let number = Number::new(name, Unit::Milliseconds, &[]).covers(format!("NOT TAKEN: {error:#}"));
    number.limit(Limit::TimesPeer(limit.unwrap_or(f64::NAN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(wall: f64, cpu: f64) -> Taken {
        Taken { wall, cpu, count: 4.0, rss: 0.0 }
    }

    #[test]
    fn a_row_is_by_its_clock_and_tells_the_other_one() {
        let pairs = Pairs { ours: vec![taken(4.0, 0.2)], peer: vec![taken(1.0, 0.4)] };
        let row = pairs.number("row", "peer", Clock::Cpu, Some(0.5), "a token");
        let report = Report { numbers: vec![row], facts: vec![] }.to_json();
        let row = &report["numbers"][0];
        assert_eq!((row["samples"]["median"].as_f64(), row["met"].as_bool()), (Some(50.0), Some(true)));
        let covers = row["covers"].as_str().unwrap();
        assert!(covers.contains("by wall clock 1000.0 ms where the peer has 250.0 ms"), "{covers}");
    }

    #[test]
    fn what_could_not_be_taken_is_missed_and_says_why() {
        let row = failed("row", Some(2.0), &anyhow::anyhow!("no such weights"));
        let report = Report { numbers: vec![row], facts: vec![] };
        assert_eq!(report.missed().len(), 1);
        assert!(report.to_string().contains("NOT TAKEN: no such weights"), "{report}");
        let unlimited = failed("row", None, &anyhow::anyhow!("gone"));
        assert_eq!(Report { numbers: vec![unlimited], facts: vec![] }.missed().len(), 1);
    }

    #[test]
    fn rows_are_asked_for_by_a_part_of_their_name() {
        assert!(asked(&[], "decode") && asked(&["code".into()], "decode"));
        assert!(!asked(&["embed".into()], "decode"));
    }
}
