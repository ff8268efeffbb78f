//! Puts each virtual processor on the host's processor that settings name. QEMU may not move its own threads (its sandbox denies
//! that), so the launcher does, as soon as the monitor says which thread is which.

use crate::error::LaunchError;
use crate::qmp;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use std::path::Path;

const COMMAND: &str = "query-cpus-fast";

/// Pins the machine behind this monitor: `cpus[i]` is where virtual processor `i` runs.
pub(crate) fn pin(socket: &Path, cpus: &[u32]) -> Result<(), LaunchError> {
    let answer = qmp::call(socket, COMMAND, json!({}))?;
    let threads = threads(&answer).ok_or_else(|| LaunchError::Monitor {
        command: COMMAND.into(),
        reason: format!("no list of processors in {answer}; is this QEMU 10.0 or newer?"),
    })?;
    for (index, thread) in threads {
        let Some(&cpu) = cpus.get(index) else { continue };
        let place = |source: rustix::io::Errno| LaunchError::Host {
            what: format!("placement.cpus[{index}]"),
            found: format!("processor {cpu}: {source}"),
            expected: "a processor that this process may use".into(),
            next: "name others, or widen the launcher's own set (taskset, AllowedCPUs=)",
        };
        if cpu as usize >= CpuSet::MAX_CPU {
            return Err(place(rustix::io::Errno::INVAL));
        }
        let mut set = CpuSet::new();
        set.set(cpu as usize);
        sched_setaffinity(Some(thread), &set).map_err(place)?;
    }
    Ok(())
}

/// Number and thread of each virtual processor.
fn threads(answer: &Value) -> Option<Vec<(usize, Pid)>> {
    let one = |cpu: &Value| {
        let index = usize::try_from(cpu.get("cpu-index")?.as_u64()?).ok()?;
        let thread = i32::try_from(cpu.get("thread-id")?.as_u64()?).ok()?;
        Some((index, Pid::from_raw(thread)?))
    };
    answer.as_array()?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_read_by_number() {
        let answer =
            json!([{"cpu-index": 1, "thread-id": 12, "target": "x86_64"}, {"cpu-index": 0, "thread-id": 11}]);
        let read: Vec<_> =
            threads(&answer).unwrap().iter().map(|(i, t)| (*i, t.as_raw_nonzero().get())).collect();
        assert_eq!(read, [(1, 12), (0, 11)]);
        for wrong in [json!({}), json!([{"cpu-index": 0}]), json!([{"cpu-index": 0, "thread-id": 0}])] {
            assert_eq!(threads(&wrong), None, "{wrong}");
        }
    }
}
