//! Every way in which a step of the gate fails, on SIMULATED GPUs: nothing is set ready that was not accepted and measured.

use super::*;
use protocol::config::file_hash;
use protocol::runtime::{RuntimeEvent, RuntimeRecord};
use simulator::gpu::{AT, Call, GpuFault, GpuMachine, RunningGpus, SimulatedDriver};

const NONCE: [u8; 32] = [0x17; 32];

fn hopper(count: usize) -> SimulatedDriver {
    SimulatedDriver::new(GpuMachine::Hopper(count).start().unwrap())
}

/// What these very devices are to be held against.
fn wanted(gpus: &RunningGpus) -> Wanted {
    let case = gpus.case(&NONCE).unwrap();
    let policy = case.policy().unwrap();
    let collateral =
        GpuCollateral { driver_rims: case.driver_rims, vbios_rims: case.vbios_rims, ocsp: case.ocsp };
    Wanted {
        policy,
        digest: Digest384::of(b"policy"),
        required: true,
        not_before: 0,
        collateral: Some(collateral.to_json().into_bytes()),
    }
}

fn measurer() -> Measurer {
    Measurer::begin(Path::new("/nonexistent"), Digest384([1; 48])).unwrap()
}

/// A folder of device nodes, two of them of GPUs.
fn dev() -> tempfile::TempDir {
    let dev = tempfile::tempdir().unwrap();
    for name in ["null", "nvidia0", "nvidiactl"] {
        fs::write(dev.path().join(name), "").unwrap();
    }
    fs::create_dir_all(dev.path().join("nvidia-caps/1")).unwrap();
    dev
}

fn nodes(dev: &tempfile::TempDir) -> usize {
    fs::read_dir(dev.path()).unwrap().count()
}

fn pass(
    driver: &SimulatedDriver,
    wanted: Option<&Wanted>,
    dev: &tempfile::TempDir,
) -> (Result<Outcome>, Option<RuntimeRecord>) {
    let mut measurer = measurer();
    let gate = Gate { driver, dev: dev.path(), nonce: NONCE, now: AT };
    let outcome = gate.pass(wanted, &mut measurer);
    (outcome, measurer.seal().ok())
}

/// The refusal of a guest that demands its GPUs, of which nothing was set ready or measured.
fn refused(driver: &SimulatedDriver, wanted: &Wanted) -> String {
    let (outcome, record) = pass(driver, Some(wanted), &dev());
    let error = format!("{:#}", outcome.unwrap_err());
    assert!(!driver.is_ready() && !driver.calls().contains(&Call::Ready(true)), "{error}");
    assert!(record.is_none(), "a guest without its GPUs comes to no seal");
    error
}

#[test]
fn gpus_are_set_ready_once_they_are_accepted_and_measured() {
    let (driver, dev) = (hopper(2), dev());
    let wanted = wanted(driver.gpus());
    let (outcome, record) = pass(&driver, Some(&wanted), &dev);
    assert_eq!(outcome.unwrap(), Outcome::Ready { count: 2, simulated: true });
    assert_eq!(driver.calls(), [Call::Count, Call::System, Call::Evidence(NONCE), Call::Ready(true)]);
    let events = record.unwrap().log.events().to_vec();
    let RuntimeEvent::Gpu(gpu) = events[1] else { panic!("{events:?}") };
    assert_eq!(gpu.policy, Digest384::of(b"policy"));
    assert!(matches!(gpu.verdict, GpuVerdict::Accepted(_)));
    assert_eq!(nodes(&dev), 4, "nothing is closed");
}

#[test]
fn what_can_not_be_measured_is_not_set_ready() {
    let driver = hopper(1);
    let mut measurer = measurer();
    measurer.gpu(GpuEvidence::none()).unwrap();
    let dev = dev();
    let gate = Gate { driver: &driver, dev: dev.path(), nonce: NONCE, now: AT };
    assert!(gate.pass(Some(&wanted(driver.gpus())), &mut measurer).is_err());
    assert!(!driver.calls().contains(&Call::Ready(true)));
}

#[test]
fn every_defect_is_refused_by_its_name() {
    // These two are made by whoever asks: another nonce, and another number of devices than the driver counts.
    let asked = [GpuFault::StaleNonce, GpuFault::SwappedChain];
    for fault in GpuFault::ALL.iter().filter(|fault| !asked.contains(fault)) {
        let driver = SimulatedDriver::new(fault.start().unwrap());
        let error = refused(&driver, &wanted(driver.gpus()));
        let name = fault.expected().unwrap().as_str();
        assert!(error.contains(name), "{}: expected {name}: {error}", fault.name());
    }
}

#[test]
fn reports_over_another_nonce_than_that_of_this_boot_are_refused() {
    let driver = hopper(1).deaf();
    let error = refused(&driver, &wanted(driver.gpus()));
    assert!(error.contains("gpu_nonce"), "{error}");
}

#[test]
fn a_machine_with_fewer_or_more_gpus_than_the_configuration_demands_does_not_serve() {
    let case = |found, demanded| {
        let (driver, other) = (hopper(found), hopper(demanded));
        refused(&driver, &wanted(other.gpus()))
    };
    let fewer = case(1, 2);
    assert!(fewer.contains("gpu_count: the measured configuration demands 2 GPU(s), found 1"), "{fewer}");
    assert!(case(2, 1).contains("demands 1 GPU(s), found 2"));
}

#[test]
fn a_driver_that_fails_at_any_step_sets_nothing_ready() {
    let steps: [fn(&Call) -> bool; 4] = [
        |call| *call == Call::Count,
        |call| *call == Call::System,
        |call| matches!(call, Call::Evidence(_)),
        |call| *call == Call::Ready(true),
    ];
    for at in steps {
        let driver = hopper(1).failing(at);
        let wanted = wanted(driver.gpus());
        let (outcome, _) = pass(&driver, Some(&wanted), &dev());
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains("GPU driver") && !driver.is_ready(), "{error}");
    }
}

#[test]
fn collateral_that_is_missing_broken_or_stale_is_named() {
    let driver = hopper(1);
    let good = || wanted(driver.gpus());
    let none = refused(&driver, &Wanted { collateral: None, ..good() });
    assert!(none.contains("expected gpu-collateral.json, found none"), "{none}");
    let broken = refused(&driver, &Wanted { collateral: Some(b"{".to_vec()), ..good() });
    assert!(broken.contains("gpu-collateral.json") && broken.contains("JSON"), "{broken}");
    let empty = GpuCollateral::default().to_json().into_bytes();
    let empty = refused(&driver, &Wanted { collateral: Some(empty), ..good() });
    assert!(
        empty.contains("gpu_driver_rim_version") || empty.contains("gpu_driver_rim_signature"),
        "{empty}"
    );
    // The clock can't be turned back behind what the configuration says.
    let later = refused(&driver, &Wanted { not_before: AT + 30 * 24 * 60 * 60, ..good() });
    assert!(later.contains("gpu_revocation") && later.contains("good only from"), "{later}");
}

#[test]
fn a_guest_that_does_not_require_its_gpus_closes_them_says_why_and_goes_on() {
    for fault in [GpuFault::DevTools, GpuFault::CcOff, GpuFault::StaleOcsp, GpuFault::VbiosMismatch] {
        let (driver, dev) = (SimulatedDriver::new(fault.start().unwrap()), dev());
        let wanted = Wanted { required: false, ..wanted(driver.gpus()) };
        let (outcome, record) = pass(&driver, Some(&wanted), &dev);
        let Outcome::Refused { reason } = outcome.unwrap() else { panic!("{fault:?} accepted") };
        assert!(reason.contains(fault.expected().unwrap().as_str()), "{reason}");
        assert!(!driver.calls().contains(&Call::Ready(true)));
        assert_eq!(nodes(&dev), 1, "the nodes of GPUs are gone");
        let events = record.unwrap().log.events().to_vec();
        let none = GpuEvidence { policy: Digest384::of(b"policy"), verdict: GpuVerdict::NoGpu };
        assert_eq!(events[1], RuntimeEvent::Gpu(none));
    }
}

#[test]
fn an_image_without_a_driver_says_so_to_a_configuration_that_demands_gpus() {
    let simulated = hopper(1);
    let wanted = wanted(simulated.gpus());
    let (driver, dev) = (attest::gpu::driver(), dev());
    let gate = Gate { driver: &*driver, dev: dev.path(), nonce: NONCE, now: AT };
    let error = format!("{:#}", gate.pass(Some(&wanted), &mut measurer()).unwrap_err());
    assert!(error.contains("demands 1 GPU(s): no GPU: "), "{error}");
    let optional = Wanted { required: false, ..wanted };
    let outcome = gate.pass(Some(&optional), &mut measurer()).unwrap();
    assert!(matches!(&outcome, Outcome::Refused { reason } if reason.contains("no GPU: ")), "{outcome:?}");
}

#[test]
fn gpus_that_nobody_configured_are_closed_and_never_asked() {
    let (driver, dev) = (hopper(1), dev());
    let (outcome, record) = pass(&driver, None, &dev);
    assert_eq!(outcome.unwrap(), Outcome::None);
    assert!(driver.calls().is_empty() && nodes(&dev) == 1);
    assert_eq!(record.unwrap().log.events()[1], RuntimeEvent::Gpu(GpuEvidence::none()));
}

/// A configuration that names the roots of the SIMULATED GPUs, and the files.
fn configured(policy: &str) -> (GpuConfig, Vec<File>) {
    let case = GpuMachine::Hopper(1).case().unwrap();
    let file = |name: &str, bytes: &[u8]| File { name: name.into(), bytes: bytes.into() };
    let files = vec![
        file(GPU_COLLATERAL_FILE, b"{}"),
        file("gpu-device-root.der", &case.device_root),
        file("gpu-rim-root.der", &case.rim_root),
    ];
    let simulated_roots = Some([file_hash(&case.device_root), file_hash(&case.rim_root)]);
    let config = GpuConfig { policy: policy.into(), required: true, not_before: 7, simulated_roots };
    (config, files)
}

#[test]
fn only_a_debug_image_believes_simulated_roots_and_only_those_that_were_measured() {
    let (config, mut files) = configured("count = 3\n");
    let wanted = Wanted::read(&config, &files, true).unwrap();
    assert_eq!((wanted.policy.platform(), wanted.policy.settings.count), (GpuPlatform::Simulated, 3));
    assert_eq!((wanted.digest, wanted.not_before), (Digest384::of(b"count = 3\n"), 7));
    let error = Wanted::read(&config, &files, false).unwrap_err().to_string();
    assert!(error.contains("gpu.simulated_roots: a production image"), "{error}");
    files[1].bytes.push(0);
    let error = Wanted::read(&config, &files, true).unwrap_err().to_string();
    assert!(error.contains("gpu.simulated_roots names a file"), "{error}");
    let hardware = GpuConfig { simulated_roots: None, ..config };
    for marked in [false, true] {
        let policy = Wanted::read(&hardware, &files, marked).unwrap().policy;
        assert_eq!(policy.platform(), GpuPlatform::Nvidia);
    }
}

#[test]
fn a_policy_that_can_not_be_read_stops_the_boot_by_name() {
    let (config, files) = configured("cuont = 3\n");
    let error = format!("{:#}", Wanted::read(&config, &files, true).unwrap_err());
    assert!(error.contains("gpu.policy") && error.contains("cuont"), "{error}");
}

#[test]
fn the_nonce_of_a_boot_is_of_its_configuration_and_its_chance() {
    let one = nonce(&[1; 48], &[2; 32]);
    assert_eq!(one, nonce(&[1; 48], &[2; 32]));
    assert_ne!(one, nonce(&[9; 48], &[2; 32]));
    assert_ne!(one, nonce(&[1; 48], &[9; 32]));
}
