//! What the numbers were taken on, and versions of everything that they depend on.

use anyhow::{Context, Result, ensure};
use builder::Artifacts;
use e2e::Stage;
use std::path::PathBuf;
use std::process::Command;

/// CPU features that decide how fast the hash library is.
const HASHING: [&str; 3] = ["sha_ni", "avx2", "avx512f"];
/// Packages of the tools root that the boots depend on.
const PACKAGES: [&str; 6] = ["qemu-system-x86", "ovmf", "swtpm", "busybox-static", "systemd-ukify", "zstd"];
/// Versions that this program was compiled with.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Load of this machine over the last minute, and processes that want to run.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let word = |i: usize| text.split_whitespace().nth(i).unwrap_or("?").to_owned();
    format!("{} (runnable/all {})", word(0), word(3))
}

/// The static busybox of the tools root.
pub fn busybox() -> Result<PathBuf> {
    let places = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
    let found = places.into_iter().find(|path| path.is_file());
    found.context("no busybox in /usr/bin or /bin; run `cargo xtask bench`, whose tools root has it")
}

/// What this machine computes with.
pub fn processor_here() -> String {
    processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// All facts, in the order of the report; `before` is the load when the run began.
pub fn facts(stage: &Stage, before: &str) -> Result<Vec<(&'static str, String)>> {
    let artifacts = Artifacts::load(&stage.image())?;
    let mut facts = alone(before)?;
    facts.push(("tools", packages()?));
    facts.push(("guest kernel, also the floor's", artifacts.kernel));
    facts.push(("compiler", artifacts.toolchain));
    Ok(facts)
}

/// Those that are known without an image.
pub fn alone(before: &str) -> Result<Vec<(&'static str, String)>> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    Ok(vec![
        ("CPU", processor_here()),
        ("load when it began and ended", format!("{before}, {}", load())),
        ("host kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("hash library", hash_library(LOCK)?),
    ])
}

/// Names and versions, as the tools root's package database has them.
fn packages() -> Result<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${Version}\n"]).args(PACKAGES);
    let output = query.output().context("dpkg-query does not start")?;
    let missing = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}; start this with `cargo xtask bench`", missing.trim());
    let lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    Ok(lines.join(", "))
}

/// The version that a lock file resolves this package's `sha2` to.
fn hash_library(lock: &str) -> Result<String> {
    let lock: toml::Table = lock.parse().context("Cargo.lock is no TOML")?;
    let packages = lock.get("package").and_then(|p| p.as_array()).context("Cargo.lock has no packages")?;
    let text = |package: &toml::Value, key| package.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let named = |name: &str| {
        packages
            .iter()
            .filter(move |p| p.get("name").and_then(|v| v.as_str()) == Some(name))
            .collect::<Vec<_>>()
    };
    let own = named(env!("CARGO_PKG_NAME")).first().and_then(|p| p.get("dependencies")?.as_array());
    let dependency =
        own.into_iter().flatten().filter_map(|d| d.as_str()).find(|d| d.split(' ').next() == Some("sha2"));
    let dependency = dependency.context("Cargo.lock says nothing of sha2")?;
    // A version stands there only if the lock has several.
    let only = || named("sha2").first().and_then(|p| text(p, "version"));
    let version = dependency.split(' ').nth(1).map(str::to_owned).or_else(only);
    Ok(format!("sha2 {}", version.context("Cargo.lock has no version of sha2")?))
}

/// Model, cores and what of them hashing can use.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    let flags: Vec<&str> = field("flags").split_whitespace().filter(|flag| HASHING.contains(flag)).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores, {}", field("model name"), flags.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK_OF_TWO: &str = r#"
        [[package]]
        name = "sha2"
        version = "0.10.9"
        [[package]]
        name = "sha2"
        version = "0.11.1"
        [[package]]
        name = "bench"
        version = "0.1.0"
        dependencies = ["anyhow", "sha2 0.11.1"]
    "#;

    #[test]
    fn the_hash_library_is_the_one_that_is_linked() {
        assert_eq!(hash_library(LOCK_OF_TWO).unwrap(), "sha2 0.11.1");
        let alone = LOCK_OF_TWO.replace("sha2 0.11.1", "sha2");
        assert_eq!(
            hash_library(&alone).unwrap(),
            "sha2 0.10.9",
            "the first, where the lock names no version"
        );
        assert!(hash_library(&LOCK_OF_TWO.replace("sha2 0.11.1", "sha3")).is_err());
        assert!(hash_library(LOCK).is_ok(), "the real one");
    }

    #[test]
    fn a_processor_is_told_by_model_and_what_hashing_can_use() {
        let text = "processor : 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 sse sha_ni\n";
        let shown = processor(text);
        assert!(shown.starts_with("Some CPU, ") && shown.ends_with(" cores, avx2 sha_ni"), "{shown}");
    }
}
