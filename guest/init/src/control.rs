//! The guest's end of the control port ([`protocol::control`]): tells health every few seconds, and does as it is ordered, which
//! is to drain.
//!
//! Two threads and one open port: a port can be opened once only. Both block while no host listens, and nobody waits for
//! them. The numbers are the kernel's own about the whole machine; of a request, a prompt or a log nothing is here to be told.
//!
//! Deliberately absent: any other order, and anything that a daemon could put into a line.

use crate::{daemon, port};
use evidence::gpu::GpuDriver;
use protocol::control::{
    Attestation, GPU_STEP_MIB, GpuHealth, Gpus, Health, INTERVAL_SECONDS, MAX_GPUS, MAX_LINE, Order, Service,
    coarse,
};
use protocol::names::{CONTROL_PORT, RUNTIME_RECORD, SIMULATED_MARKER};
use protocol::runtime::{Extension, GpuVerdict, RuntimeEvent, RuntimeRecord};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The kernel's list of the daemon's processes (control groups, version 2).
const PROCESSES: &str = "/sys/fs/cgroup/system.slice/chrysalis-daemon.service/cgroup.procs";
/// Time between two looks at a port that no host listens on.
const PAUSE: Duration = Duration::from_secs(1);

/// Where everything that is told or done lies.
#[derive(Clone)]
struct Places {
    processes: PathBuf,
    proc: PathBuf,
    record: PathBuf,
    programs: PathBuf,
    gpus: Arc<dyn GpuDriver>,
}

/// Starts both threads, if there is a port.
pub(crate) fn attend() {
    let Some(port) = port::open_both_ways(CONTROL_PORT) else { return };
    let places = Places {
        processes: PROCESSES.into(),
        proc: "/proc".into(),
        record: RUNTIME_RECORD.into(),
        programs: daemon::PROGRAMS.into(),
        gpus: attest::gpu::driver(),
    };
    let Ok(told) = port.try_clone() else { return };
    let draining = Arc::new(AtomicBool::new(false));
    let (also, here) = (Arc::clone(&draining), places.clone());
    std::thread::spawn(move || obey(port, || drain(&here.processes, &also)));
    std::thread::spawn(move || tell(told, &places, &draining));
}

/// Reads orders for as long as the guest lives.
fn obey(mut port: impl Read, mut drain: impl FnMut()) {
    let (mut line, mut bytes) = (Vec::new(), [0; 256]);
    loop {
        let length = match port.read(&mut bytes) {
            Ok(length @ 1..) => length,
            // No host listens now.
            Ok(0) => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(_) => return,
        };
        for &byte in &bytes[..length] {
            if byte != b'\n' {
                if line.len() <= MAX_LINE {
                    line.push(byte);
                }
                continue;
            }
            if let Some(Order::Drain) = std::str::from_utf8(&line).ok().and_then(Order::parse) {
                drain();
            }
            line.clear();
        }
    }
}

/// SIGTERM, upon which a daemon takes nothing new, finishes what is under way and ends; its unit then powers off.
fn drain(processes: &Path, draining: &AtomicBool) {
    draining.store(true, Ordering::Relaxed);
    for process in pids(processes) {
        // One that has ended meanwhile is what was asked for.
        let _ = kill_process(process, Signal::TERM);
    }
}

fn pids(processes: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(processes).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}

fn tell(mut port: File, places: &Places, draining: &AtomicBool) {
    loop {
        let health = places.health(draining.load(Ordering::Relaxed));
        if port.write_all(health.to_line().as_bytes()).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_secs(INTERVAL_SECONDS));
    }
}

impl Places {
    fn health(&self, draining: bool) -> Health {
        let daemon = match (pids(&self.processes).is_empty(), draining) {
            (true, _) => Service::Gone,
            (false, true) => Service::Draining,
            (false, false) => Service::Running,
        };
        let record = fs::read(&self.record).ok().and_then(|bytes| RuntimeRecord::from_bytes(&bytes).ok());
        let gpu = record.as_ref().map_or(Gpus::None, accepted);
        let memory = self.read("meminfo");
        let load: f32 = first(&self.read("loadavg")).unwrap_or(0.0);
        Health {
            uptime_ms: port::uptime_ms(),
            daemon,
            attestation: Attestation {
                sealed: record.is_some(),
                extended: record.as_ref().is_some_and(|record| record.extension == Extension::Extended),
                simulated: self.programs.join(SIMULATED_MARKER).exists(),
                gpu,
            },
            memory_kib: coarse(field(&memory, "MemTotal:")),
            available_kib: coarse(field(&memory, "MemAvailable:")),
            load_percent: (load * 100.0) as u32,
            gpus: if gpu == Gpus::Accepted { self.gpus() } else { Vec::new() },
        }
    }

    /// The GPUs that the gate accepted; none where they no longer answer.
    fn gpus(&self) -> Vec<GpuHealth> {
        let status = self.gpus.status().unwrap_or_default();
        let health = status.into_iter().take(MAX_GPUS).map(|gpu| GpuHealth {
            ready: gpu.ready,
            celsius: gpu.celsius.and_then(|celsius| celsius.try_into().ok()),
            used_mib: gpu.used_mib.map(|mib| mib / GPU_STEP_MIB * GPU_STEP_MIB),
        });
        health.collect()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.proc.join(name)).unwrap_or_default()
    }
}

/// What the record says of the GPUs.
fn accepted(record: &RuntimeRecord) -> Gpus {
    let accepted = |event: &RuntimeEvent| matches!(event, RuntimeEvent::Gpu(gpu) if matches!(gpu.verdict, GpuVerdict::Accepted(_)));
    if record.log.events().iter().any(accepted) { Gpus::Accepted } else { Gpus::None }
}

/// The number behind a name, in KiB.
fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| first(line.strip_prefix(name)?)).unwrap_or(0)
}

fn first<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use simulator::gpu::{GpuMachine, SimulatedDriver};
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn only_an_order_drains() {
        let lines =
            format!("{{\"order\":\"reboot\"}}\n{}drain\n{}", " ".repeat(9000), Order::Drain.to_line());
        let count = AtomicUsize::new(0);
        /// Ends like a port that broke.
        struct Broken<'a>(&'a [u8]);
        impl Read for Broken<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if self.0.is_empty() {
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
                self.0.read(buffer)
            }
        }
        obey(Broken(lines.as_bytes()), || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 1);
    }

    #[test]
    fn health_is_what_the_kernel_says_in_steps() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("meminfo", "MemTotal:        2030500 kB\nMemFree: 1 kB\nMemAvailable:    1000001 kB\n");
        put("loadavg", "1.12 0.40 0.11 2/71 312\n");
        let places = Places {
            processes: dir.path().join("cgroup.procs"),
            proc: dir.path().into(),
            record: dir.path().join("record"),
            programs: dir.path().into(),
            gpus: attest::gpu::driver(),
        };
        let health = places.health(false);
        assert_eq!((health.memory_kib, health.available_kib), (coarse(2_030_500), coarse(1_000_001)));
        assert_eq!((health.load_percent, health.daemon), (112, Service::Gone));
        assert!(!health.attestation.sealed && !health.attestation.simulated);
        put("cgroup.procs", "17\n19\n");
        assert_eq!(places.health(false).daemon, Service::Running);
        assert_eq!(places.health(true).daemon, Service::Draining);
        assert_eq!(pids(&places.processes).len(), 2);
    }

    #[test]
    fn health_tells_of_gpus_once_the_gate_accepted_them() {
        use protocol::Digest384;
        use protocol::runtime::{GpuEvidence, RuntimeLog};
        let dir = tempfile::tempdir().unwrap();
        let driver = Arc::new(SimulatedDriver::new(GpuMachine::Hopper(2).start().unwrap()));
        let places = Places {
            processes: dir.path().join("cgroup.procs"),
            proc: dir.path().into(),
            record: dir.path().join("record"),
            programs: dir.path().into(),
            gpus: driver.clone(),
        };
        let record = |verdict| {
            let (mut log, _) = RuntimeLog::begin(Digest384([1; 48]));
            log.gpu(GpuEvidence { policy: Digest384([2; 48]), verdict }).unwrap();
            let (log, _) = log.seal().unwrap();
            let record = RuntimeRecord { extension: Extension::NotExtended, log };
            fs::write(dir.path().join("record"), record.to_bytes()).unwrap();
        };
        record(GpuVerdict::NoGpu);
        let health = places.health(false);
        assert_eq!((health.attestation.gpu, health.gpus), (Gpus::None, Vec::new()));
        record(GpuVerdict::Accepted(Digest384([3; 48])));
        let health = places.health(false);
        let gpu = |ready| GpuHealth { ready, celsius: Some(41), used_mib: Some(1024) };
        assert_eq!((health.attestation.gpu, health.gpus), (Gpus::Accepted, vec![gpu(false); 2]));
        driver.set_ready(true).unwrap();
        assert_eq!(places.health(false).gpus, [gpu(true); 2]);
    }

    #[test]
    fn a_drain_ends_the_processes_of_the_list() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("cgroup.procs");
        fs::write(&list, format!("{}\n", child.id())).unwrap();
        let draining = AtomicBool::new(false);
        drain(&list, &draining);
        assert!(!child.wait().unwrap().success() && draining.into_inner());
    }
}
