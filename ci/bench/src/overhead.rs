//! What the launcher itself costs: time before QEMU starts, and memory while it keeps a machine.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use e2e::{DEADLINE, Stage};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Milliseconds before QEMU starts.
const OVERHEAD: f64 = 200.0;
/// KiB of memory.
const MEMORY: f64 = 30.0 * 1024.0;

/// Ends with the bench, and its machine with it.
struct Launcher(Child);

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Launches the stage's machine with the command, until it serves.
pub fn measure(stage: &Stage, scratch: &Path) -> Result<Vec<Number>> {
    let here = std::env::current_exe().context("this program's own path is unknown")?;
    let program = here.with_file_name("chrysalis");
    ensure!(program.is_file(), "{}: missing; `cargo xtask bench` builds it", program.display());
    let mut command = Command::new(program);
    command.args(["--json", "launch", "--image"]).arg(stage.image());
    command.arg("--model").arg(stage.model()).arg("--simulated-platform").arg(stage.platform("demo"));
    command.arg("--run").arg(scratch.join("launcher")).stdout(Stdio::piped()).stderr(Stdio::null());
    let began = Instant::now();
    let mut launcher = Launcher(command.spawn().context("cannot start chrysalis")?);
    let output = launcher.0.stdout.take().context("the launcher has no output")?;
    let mut overhead = None;
    for line in BufReader::new(output).lines() {
        let line = line.context("the launcher's output broke off")?;
        ensure!(began.elapsed() < DEADLINE, "the machine did not serve in time");
        if line.contains("\"state\":\"booting\"") {
            overhead = Some(began.elapsed().as_secs_f64() * 1e3);
        }
        if line.contains("\"state\":\"serving\"") {
            let memory = resident_kib(launcher.0.id())?;
            let overhead = overhead.context("QEMU was never started")?;
            return Ok(vec![
                Number::new("launch overhead", Unit::Milliseconds, &[overhead])
                    .limit(Limit::AtMost(OVERHEAD))
                    .covers("`chrysalis launch` from its start to QEMU's: settings, prediction of all registers, handoff disk, an emulated TPM made and started"),
                Number::new("launcher, resident", Unit::Kibibytes, &[memory])
                    .limit(Limit::AtMost(MEMORY))
                    .covers("VmRSS of `chrysalis launch` while its machine serves"),
            ]);
        }
    }
    anyhow::bail!("the launcher ended before its machine served")
}

/// What proc(5) calls VmRSS.
fn resident_kib(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the launcher's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let number = line.split_whitespace().next().context("VmRSS has no number")?;
    number.parse().context("VmRSS is no number")
}
