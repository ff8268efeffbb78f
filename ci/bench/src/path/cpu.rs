//! CPU time of threads: of this process by their name, or of another process.
//!
//! The scheduler's own count (`/proc/PID/task/TID/schedstat`, nanoseconds), not ticks: a sample takes some hundred
//! milliseconds. It is read while the threads wait for work, when it is exact.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Threads that work for one side.
#[derive(Debug, Clone)]
pub enum Threads {
    /// Of this process, with this name.
    Named(&'static str),
    /// Of another one, all of them.
    Of(u32),
}

impl Threads {
    /// What they have computed until now.
    pub fn cpu(&self) -> Result<Duration> {
        let (folder, name) = match self {
            Threads::Named(name) => (PathBuf::from("/proc/self/task"), Some(*name)),
            Threads::Of(pid) => (PathBuf::from(format!("/proc/{pid}/task")), None),
        };
        let tasks = std::fs::read_dir(&folder)
            .with_context(|| format!("{}: no such process any more", folder.display()))?;
        let (mut nanos, mut found) = (0, false);
        for task in tasks {
            let task = task?.path();
            if name.is_none_or(|name| is_called(&task, name)) {
                nanos += computed(&task)?;
                found = true;
            }
        }
        ensure!(found, "{}: no thread {name:?}; report this as a defect", folder.display());
        Ok(Duration::from_nanos(nanos))
    }
}

fn is_called(task: &Path, name: &str) -> bool {
    std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
}

fn computed(task: &Path) -> Result<u64> {
    let path = task.join("schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("{}: unreadable; a kernel with CONFIG_SCHED_INFO is needed to measure", path.display())
    })?;
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.with_context(|| format!("{}: expected nanoseconds first, found `{}`", path.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_by_its_name_and_its_work_grows() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (worked, next) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("counts".into()).spawn(move || {
            // More than a tick, so that it is counted whatever the kernel does lazily.
            let sum: u64 = (0..50_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
            worked.send(sum).unwrap();
            wait.recv().unwrap_err();
        });
        next.recv().unwrap();
        let threads = Threads::Named("counts");
        let mut spent = threads.cpu().unwrap();
        // It is asleep, or about to be.
        while spent.is_zero() {
            spent = threads.cpu().unwrap();
        }
        drop(done);
        thread.unwrap().join().unwrap();
        assert!(Threads::Named("nobody at all").cpu().is_err());
    }
}
