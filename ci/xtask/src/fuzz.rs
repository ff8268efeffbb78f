//! `cargo xtask fuzz`: libFuzzer on the parsers of hostile bytes.
//!
//! The fuzzer is compiled inside the tools root, with the coverage instrumentation that libFuzzer reads; the pinned stable
//! compiler has it. What the fuzzer learns stays in the cache and is where the next run begins.

use crate::host;
use crate::steps::{House, Steps};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What libFuzzer reads: edge counters, the table of places, and the operands of comparisons.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Coverflow-checks=on",
];
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Targets, all if none is named.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Print the names of the targets and stop.
    #[arg(long)]
    list: bool,
}

/// Fuzzes the targets one after the other; the first crash ends the run and says where its input lies.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let known = targets(root)?;
    if args.list {
        known.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if let Some(wrong) = args.targets.iter().find(|name| !known.contains(name)) {
        bail!("{wrong}: no such target; `cargo xtask fuzz --list` names them");
    }
    let chosen = if args.targets.is_empty() { &known } else { &args.targets };
    let mut steps = Steps::new(1 + chosen.len());
    steps.next("The fuzzer, instrumented");
    let house = House::open(root)?;
    let program = compile(&house)?;
    steps.done("compiled");
    for name in chosen {
        steps.next(&format!("{name}, {} s", args.seconds));
        fuzz(&house, &program, name, args.seconds)?;
        steps.done("no crash");
    }
    Ok(())
}

/// Names in the table of targets, read from its source: this program links none of the parsers.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("ci/fuzz/src/targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("{}: unreadable", folder.display()))? {
        let text = fs::read_to_string(entry?.path())?;
        names.extend(named(&text));
    }
    names.sort();
    Ok(names)
}

/// The names that a source file gives its targets.
fn named(source: &str) -> impl Iterator<Item = String> {
    let quoted = |rest: &str| rest.split_once('"').map(|(name, _)| name.to_owned());
    source.split("Target { name: \"").skip(1).filter_map(quoted)
}

fn compile(house: &House) -> Result<PathBuf> {
    let workshop = house.workshop(&[])?;
    let mut cargo = workshop.cargo();
    cargo.args(["build", "--release", "--locked", "--offline", "--quiet", "--package", "fuzz"]);
    cargo.args(["--features", "libfuzzer", "--manifest-path", "/chrysalis/src/Cargo.toml"]);
    // Flags for a named platform leave build scripts alone.
    cargo.args(["--target", PLATFORM, "--target-dir", "/chrysalis/target/fuzz"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"));
    host::run(&mut cargo)?;
    Ok(house.checkout.cache().join("target/fuzz").join(PLATFORM).join("release/chrysalis-fuzz"))
}

/// Writes the seeds beside what earlier runs found, then lets libFuzzer run.
fn fuzz(house: &House, program: &Path, target: &str, seconds: u32) -> Result<()> {
    let home = house.checkout.cache().join("fuzz").join(target);
    let (corpus, crashes) = (home.join("corpus"), home.join("crashes"));
    for folder in [&corpus, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("{}: can't make", folder.display()))?;
    }
    let call = || -> Command {
        let mut command = house.tools.command(&program.display().to_string());
        command.env("CHRYSALIS_FUZZ_TARGET", target).env("CHRYSALIS_CHECKOUT", house.checkout.root());
        command
    };
    host::run(call().env("CHRYSALIS_FUZZ_SEEDS", &corpus))?;
    let mut fuzzer = call();
    fuzzer.arg(&corpus).arg(format!("-artifact_prefix={}/", crashes.display()));
    fuzzer.arg(format!("-max_total_time={seconds}")).args(["-timeout=10", "-rss_limit_mb=2048"]);
    fuzzer.args(["-max_len=65536", "-print_final_stats=1", "-verbosity=0"]);
    let status = fuzzer.status().context("the fuzzer does not start in the tools root")?;
    if !status.success() {
        bail!(
            "{target}: an input made the parser fail; it lies in {}. Make it a test beside the parser",
            crashes.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_names_come_out_of_their_source() {
        let source = "pub const A: Target = Target { name: \"a\", run };\npub const B: Target =\n    Target { name: \"b_c\", run };";
        assert_eq!(named(source).collect::<Vec<_>>(), ["a", "b_c"]);
    }

    #[test]
    fn every_parser_of_the_table_is_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let names = targets(&root).unwrap();
        for name in ["event_log", "quote", "tdvf", "uki"] {
            assert!(names.iter().any(|n| n == name), "{names:?}");
        }
    }
}
