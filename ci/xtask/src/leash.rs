//! Programs that end with this one, however this one ends: by itself, by Ctrl-C, or killed.
//!
//! Each gets a process group of its own and a keeper beside it: a shell that waits for the end of its standard input, which
//! comes when nobody holds the other end any longer, and then ends the group, first in peace (SIGTERM), then for good.

use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the keeper does; `$1` is the group. A minute is enough for a machine to drain and go.
const KEEPER: &str = "\
cat >/dev/null
kill -s TERM -- \"-$1\" 2>/dev/null || exit 0
for _ in $(seq 60); do
    sleep 1
    kill -s 0 -- \"-$1\" 2>/dev/null || exit 0
done
kill -s KILL -- \"-$1\" 2>/dev/null";

/// How often the keeper is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A program, and all that it started and left in its group.
pub struct Leashed {
    /// The program.
    pub child: Child,
    keeper: Child,
}

impl Leashed {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let shown = format!("{command:?}");
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        let child = child.with_context(|| format!("cannot start {shown}"))?;
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper", &child.id().to_string()]);
        // A group of its own too: the terminal's Ctrl-C is for this program alone.
        let keeper = keeper.stdin(Stdio::piped()).process_group(0).spawn().context("cannot start a shell")?;
        Ok(Leashed { child, keeper })
    }

    /// Waits until the program ends by itself; an error says what was run.
    pub fn wait(&mut self) -> Result<()> {
        let status = self.child.wait().context("the program is gone")?;
        anyhow::ensure!(status.success(), "it ended with {status}; what it said last is above");
        Ok(())
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        while let Ok(None) = self.keeper.try_wait() {
            // Reaped, so that the keeper sees an empty group.
            let _ = self.child.try_wait();
            std::thread::sleep(LOOK);
        }
        // Should the keeper have failed, the program at least goes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::time::Instant;

    #[test]
    fn a_program_and_what_it_started_end_with_the_leash() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped());
        let mut leashed = Leashed::spawn(&mut command).unwrap();
        let mut line = String::new();
        BufReader::new(leashed.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started = format!("/proc/{}/stat", line.trim());
        assert!(std::fs::exists(&started).unwrap());
        drop(leashed);
        let begun = Instant::now();
        // Whoever is left without a parent may be a zombie until the first process reaps it.
        let gone = || std::fs::read_to_string(&started).map_or(true, |stat| stat.contains(") Z "));
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{started} is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
