//! `cargo xtask test`: sets everything up and runs every test, the VM stories included.
//!
//! Tests are compiled and run inside the tools root, in the same profile and target folder as the guest's programs, so
//! that nothing heavy is compiled twice.

use crate::node::{self, Node};
use crate::reference;
use crate::steps::{House, Steps};
use crate::{flake, still, tidy};
use anyhow::{Context, Result, bail};
use builder::{Profile, Thoroughness};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Options of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Leave out the set-up of images (for work on the pure crates); the VM stories are then not run, and it says so.
    #[arg(long)]
    no_vm: bool,
    /// Where property tests begin: the same inputs in every run, so that a change is judged by itself. Another number
    /// tries other inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs everything; the error names what failed.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::new(if args.no_vm { 6 } else { 10 });
    steps.next("House rules");
    tidy::run(root, &tidy::Args { json: false })?;
    steps.done("tidy");

    steps.next("Tools: a locked Debian root, so that every host builds the same bytes");
    let house = House::open(root)?;
    steps.done("tools root ready");

    steps.next("Model, and references of sentence-transformers and transformers, computed now");
    house.model_folder()?;
    let references =
        References { vectors: reference::vectors(&house)?, decoders: reference::decoders(&house)? };
    steps.done("references computed");

    steps.next("Node.js with TON's official emulator and the compiler of the contracts, for comparison");
    let node = node::ready(&house)?;
    steps.done("locked modules ready");

    steps.next("Flake: input-free parts built twice, offline; the rest evaluated against a stub of nixpkgs");
    let claims = flake::check(&house)?;
    steps.done("the claims of nix/ hold");

    if !args.no_vm {
        steps.next("Images: worker, proxy, and debug with both daemons");
        let worker = house.image(Profile::Worker)?;
        house.image(Profile::Proxy)?;
        house.image(Profile::Debug)?;
        steps.done("three images built");
        steps.next("Proof: two assemblies of the worker image in different surroundings");
        let proof = builder::prove(
            &house.checkout,
            Profile::Worker,
            Thoroughness::Assemble,
            &mut crate::steps::show,
        )?;
        if !proof.equal() {
            bail!("two builds differ:\n{proof}");
        }
        steps.done("equal, byte by byte");
        steps.next("Proof: lines added in host/, ci/ and docs/ move no measurement");
        still::check(&house, &worker)?;
        steps.done("every artifact is the same");
        steps.next("Model disk and simulated platforms");
        house.model_disk()?;
        house.simulated_platform("demo")?;
        house.simulated_platform("foreign")?;
        steps.done("ready");
    }

    steps.next("Unit, property and process tests, and the VM stories");
    let on_host = host_tests(root, args)?;
    let inside = cargo_test(&house, &references, &node, args)?;
    steps.done("passed");
    if args.no_vm {
        eprintln!("--no-vm: the VM stories were not run");
    }
    eprintln!("\nAll passed in {:.0} s.", steps.seconds());
    println!("{} passed, 0 failed", claims + on_host + inside);
    Ok(())
}

/// What reference implementations computed in this run.
struct References {
    /// File with the vectors of the real embedding model.
    vectors: PathBuf,
    /// Folder with small decoders and what is expected of them.
    decoders: PathBuf,
}

/// All packages in one call: cargo then compiles what they share once, with one set of features.
fn cargo_test(house: &House, references: &References, node: &Node, args: &Args) -> Result<usize> {
    let public = house.checkout.root().join("../shared/vectors");
    let binds: &[(&Path, &str)] = if public.is_dir() { &[(&public, "/chrysalis/vectors")] } else { &[] };
    let workshop = house.workshop(binds)?;
    let mut cargo = workshop.cargo();
    cargo.args(["test", "--release", "--locked", "--offline", "--quiet"]);
    cargo.args(["--manifest-path", "/chrysalis/src/Cargo.toml"]);
    // No crate has examples in its documentation that could be run.
    cargo.args([
        "--lib",
        "--bins",
        "--tests",
        "--no-fail-fast",
        "--workspace",
        "--exclude",
        "xtask",
        "--exclude",
        "builder",
    ]);
    if args.no_vm {
        cargo.args(["--exclude", "e2e"]);
    }
    cargo.args(&args.filter);
    cargo.env("PROPTEST_RNG_SEED", args.seed.to_string());
    cargo.env("CHRYSALIS_VECTORS", "/chrysalis/vectors");
    cargo.env("CHRYSALIS_CHECKOUT", house.checkout.root()).env("CHRYSALIS_CACHE", house.checkout.cache());
    cargo.env("CHRYSALIS_MODELS", house.checkout.cache().join("models"));
    cargo.env("CHRYSALIS_REFERENCE_VECTORS", &references.vectors).env("RUST_BACKTRACE", "1");
    cargo.env("CHRYSALIS_REFERENCE_DECODERS", &references.decoders);
    cargo.env("CHRYSALIS_NODE", &node.program).env("CHRYSALIS_NODE_MODULES", &node.modules);
    cargo.env("TOLK_MODULES", &node.modules);
    cargo.env("CHRYSALIS_PYTHON_SITE", reference::wheels(house)?);
    let pins = house.checkout.root().join("ci/clients/python.txt");
    let site = reference::wheels_of(house, &pins, &house.checkout.cache().join("clients/python"))?;
    cargo.env("CHRYSALIS_OPENAI_PYTHON", site).env("CHRYSALIS_OPENAI_NODE", node::openai(house, node)?);
    counted(&mut cargo)
}

/// Runs a test command, passing its output on; returns how many tests passed.
fn counted(cargo: &mut Command) -> Result<usize> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cargo does not start")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut passed = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cargo's output broke off")?;
        passed += passed_in(&line);
        println!("{line}");
    }
    if !child.wait().context("cargo is gone")?.success() {
        bail!("a test failed; the lines above name it");
    }
    Ok(passed)
}

/// The count of a test harness's closing line, `test result: ok. N passed; ...`; 0 for every other line.
fn passed_in(line: &str) -> usize {
    let counts = line.strip_prefix("test result: ok. ").and_then(|rest| rest.split_once(" passed"));
    counts.and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
}

/// What runs on the host is tested on the host: the task runner and the builder, with the host's git.
fn host_tests(root: &Path, args: &Args) -> Result<usize> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--release", "--locked", "--quiet", "--package", "xtask", "--package", "builder"]);
    cargo.env("PROPTEST_RNG_SEED", args.seed.to_string());
    counted(cargo.args(&args.filter).current_dir(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_closing_lines_of_a_harness_count() {
        assert_eq!(
            passed_in("test result: ok. 31 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"),
            31
        );
        assert_eq!(passed_in("test result: FAILED. 31 passed; 1 failed"), 0);
        assert_eq!(passed_in("running 31 tests"), 0);
    }
}
