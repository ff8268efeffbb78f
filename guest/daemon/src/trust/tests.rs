//! Every way in which a host could hand over something else than was measured, and the door to simulated platforms.

use super::*;
use protocol::config::file_hash;

const AT: u64 = 1_790_000_000;

fn release(name: &str, mrconfigid: &str) -> File {
    let zeros = "00".repeat(48);
    let registers = ["mrtd", "rtmr0", "rtmr1", "rtmr2"].map(|register| format!("\"{register}\":\"{zeros}\""));
    let json = format!(
        "{{\"schema\":1,\"releases\":[{{\"name\":\"{name}\",{}}}]{mrconfigid}}}",
        registers.join(",")
    );
    File { name: format!("reference-{name}.json"), bytes: json.into_bytes() }
}

/// A SIMULATED platform's files, and a configuration that names them.
fn simulated() -> (TrustConfig, Vec<File>) {
    let platform = simulator::Platform::generate(AT).unwrap();
    let root = File { name: "simulated-root.der".into(), bytes: platform.root_der().unwrap() };
    let collateral = platform.collateral().unwrap().to_json().into_bytes();
    let collateral = File { name: COLLATERAL_FILE.into(), bytes: collateral };
    let releases = [release("a", ""), release("b", "")];
    let config = TrustConfig {
        policy: "schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n".into(),
        references: releases.iter().map(|file| file_hash(&file.bytes)).collect(),
        publication: None,
        simulated_root: Some(file_hash(&root.bytes)),
        not_before: AT,
        gpu: None,
    };
    (config, releases.into_iter().chain([root, collateral]).collect())
}

/// The same, with a publication in the place of references; its releases are of these names.
fn published(names: &[&str]) -> (TrustConfig, Vec<File>) {
    let (config, mut files) = simulated();
    let mut publication = release::samples::publication(AT, 1).unwrap();
    publication.anchor.names = names.iter().map(|name| (*name).into()).collect();
    let at = release::Instants { host: AT, monotonic: std::time::Duration::ZERO };
    let (bundle, _) =
        release::Bundle::gather(&publication.anchor, Box::new(publication.clone()), at).unwrap();
    files.push(File { name: PUBLICATION_FILE.into(), bytes: bundle.to_bytes() });
    let text = publication.anchor.to_toml();
    (TrustConfig { references: Vec::new(), publication: Some(text), ..config }, files)
}

#[test]
fn a_production_image_takes_reference_values_from_a_publication_alone() {
    let (mut config, files) = simulated();
    config.policy = "schema = 1\nplatform = \"tdx\"\n".into();
    let error = Believed::of(&config, &files, false).unwrap_err();
    assert!(matches!(error, TrustError::NotPublished), "{error}");
    assert!(Believed::of(&config, &files, true).is_ok());
}

#[test]
fn a_publication_that_was_not_handed_over_or_begins_with_another_root_is_refused() {
    let (config, mut files) = published(&["worker"]);
    let none: Vec<File> = files.iter().filter(|file| file.name != PUBLICATION_FILE).cloned().collect();
    assert!(matches!(Believed::of(&config, &none, true), Err(TrustError::NoPublication)));
    let other = TrustConfig {
        publication: config.publication.as_ref().map(|text| {
            let (before, after) = text.split_once("root = \"").unwrap();
            format!("{before}root = \"{}{}", "00".repeat(32), &after[64..])
        }),
        ..config.clone()
    };
    let error = Believed::of(&other, &files, true).unwrap_err();
    assert!(matches!(error, TrustError::Publication(release::ReleaseError::Mismatch { .. })), "{error}");
    files.last_mut().unwrap().bytes[3] ^= 1;
    assert!(matches!(Believed::of(&config, &files, true), Err(TrustError::Publication(_))));
}

#[test]
fn a_debug_image_believes_the_simulated_root_that_was_measured() {
    let (config, files) = simulated();
    let believed = Believed::of(&config, &files, true).unwrap();
    assert!(believed.is_simulated() && believed.clock.now() >= AT);
    let Accepted::Fixed(reference) = believed.accepted else { panic!("references by hash") };
    let names: Vec<&str> = reference.releases.iter().map(|release| release.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn an_image_without_the_marker_refuses_a_policy_for_a_simulated_platform() {
    let (config, files) = simulated();
    let error = Believed::of(&config, &files, false).unwrap_err();
    assert!(matches!(error, TrustError::Policy(evidence::PolicyError::SimulatedInProduction)), "{error}");
}

#[test]
fn a_policy_for_hardware_ends_in_intels_root_with_and_without_the_marker() {
    let (mut config, files) = published(&["worker"]);
    config.policy = "schema = 1\nplatform = \"tdx\"\n".into();
    for marked in [false, true] {
        let believed = Believed::of(&config, &files, marked).unwrap();
        assert!(!believed.is_simulated());
        assert_eq!(believed.policy.root_fingerprint(), Policy::production().root_fingerprint());
    }
}

#[test]
fn files_that_the_host_changed_or_left_out_are_refused_by_name() {
    let (config, files) = simulated();
    for (index, field) in [(0, "references"), (1, "references"), (2, "simulated_root")] {
        let mut changed = files.clone();
        changed[index].bytes.push(b' ');
        let error = Believed::of(&config, &changed, true).unwrap_err().to_string();
        assert!(error.contains(&format!("trust.{field}")), "{error}");
    }
    assert!(matches!(Believed::of(&config, &files[..3], true), Err(TrustError::NoCollateral)));
}

#[test]
fn another_simulated_root_is_refused_although_its_collateral_is_handed_over_too() {
    let (config, files) = simulated();
    let (_, foreign) = simulated();
    let swapped = [&files[..2], &foreign[2..]].concat();
    assert!(Believed::of(&config, &swapped, true).is_err());
}

#[test]
fn files_of_different_configurations_are_refused_together() {
    let (mut config, mut files) = simulated();
    files[1] = release("b", &format!(",\"mrconfigid\":\"{}\"", "11".repeat(48)));
    config.references[1] = file_hash(&files[1].bytes);
    assert!(matches!(Believed::of(&config, &files, true), Err(TrustError::DifferentConfigurations)));
}

#[test]
fn files_are_read_from_the_folder_that_the_gate_left() {
    let (config, files) = simulated();
    let folder = tempfile::tempdir().unwrap();
    for file in &files {
        fs::write(folder.path().join(&file.name), &file.bytes).unwrap();
    }
    let mut found = handed(folder.path()).unwrap();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found.len(), files.len());
    // This test's own program has no marker beside it.
    assert!(matches!(Believed::load(&config, folder.path()), Err(TrustError::Policy(_))));
    for i in 0..MAX_FILES {
        fs::write(folder.path().join(format!("more-{i}")), "x").unwrap();
    }
    assert!(matches!(handed(folder.path()), Err(TrustError::TooMuch { .. })));
}

#[test]
fn a_peer_belongs_by_its_role_and_network() {
    let own = StaticConfig::parse(b"schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n").unwrap();
    let peer = |role: &str, network: &str| {
        let text = format!("schema = 1\nrole = \"{role}\"\nnetwork = \"{network}\"\n");
        belongs(text.as_bytes(), &own).map(|config| config.network)
    };
    assert_eq!(peer("worker", "local"), Ok("local".into()));
    assert_eq!(peer("proxy", "local"), Err("role"));
    assert_eq!(peer("worker", "test"), Err("network"));
    assert_eq!(belongs(b"\xff", &own), Err("static_config"));
}

/// [`simulated`], with GPUs demanded, and the files of SIMULATED ones.
fn with_gpus(max_age: Option<u32>) -> (TrustConfig, Vec<File>) {
    let (config, mut files) = simulated();
    let case = simulator::gpu::GpuMachine::Hopper(1).case().unwrap();
    let hashes = [file_hash(&case.device_root), file_hash(&case.rim_root)];
    let simulator::gpu::GpuCase { driver_rims, vbios_rims, ocsp, device_root, rim_root, .. } = case;
    let collateral = GpuCollateral { driver_rims, vbios_rims, ocsp }.to_json().into_bytes();
    let file = |name: &str, bytes| File { name: name.into(), bytes };
    files.extend([
        file(GPU_COLLATERAL_FILE, collateral),
        file("gpu-device-root.der", device_root),
        file("gpu-rim-root.der", rim_root),
    ]);
    let gpu = Some(PeerGpuConfig { max_age, simulated_roots: Some(hashes) });
    let policy = format!("{}[gpu]\ncount = 2\n", config.policy);
    (TrustConfig { policy, gpu, ..config }, files)
}

#[test]
fn gpus_are_demanded_as_it_was_measured_and_held_against_what_was_handed_over() {
    for (max_age, demand) in [(None, GpuDemand::Fresh), (Some(60), GpuDemand::Cached { max_age_s: 60 })] {
        let (config, files) = with_gpus(max_age);
        let believed = Believed::of(&config, &files, true).unwrap();
        assert_eq!(believed.wanted(Part::Worker).gpu, demand);
        let gpu = believed.gpu.unwrap();
        assert_eq!(gpu.policy.settings.count, 2);
        assert_eq!(gpu.policy.platform(), evidence::gpu::GpuPlatform::Simulated);
        assert_eq!((gpu.driver_rims.len(), gpu.vbios_rims.len()), (1, 1));
    }
    let (config, files) = simulated();
    let believed = Believed::of(&config, &files, true).unwrap();
    assert!(believed.gpu.is_none() && believed.wanted(Part::Worker).gpu == GpuDemand::None);
}

#[test]
fn gpus_that_are_demanded_without_collateral_or_under_other_roots_are_refused_by_name() {
    let (config, files) = with_gpus(None);
    let without =
        |name: &str| -> Vec<File> { files.iter().filter(|file| file.name != name).cloned().collect() };
    let error = Believed::of(&config, &without(GPU_COLLATERAL_FILE), true).unwrap_err();
    assert!(matches!(error, TrustError::NoGpuCollateral), "{error}");
    let error = Believed::of(&config, &without("gpu-rim-root.der"), true).unwrap_err().to_string();
    assert!(error.contains("trust.gpu.simulated_roots names a file"), "{error}");
    let mut broken = files.clone();
    broken.iter_mut().filter(|file| file.name == GPU_COLLATERAL_FILE).for_each(|file| file.bytes.truncate(9));
    let error = Believed::of(&config, &broken, true).unwrap_err();
    assert!(matches!(error, TrustError::GpuCollateral(_)), "{error}");
    // A production image with a policy for hardware: the roots of GPUs are another door, and closed as well.
    let (published, more) = published(&["worker"]);
    let hardware = TrustConfig {
        policy: "schema = 1\nplatform = \"tdx\"\n".into(),
        gpu: config.gpu.clone(),
        ..published
    };
    let all = [more, files[4..].to_vec()].concat();
    let error = Believed::of(&hardware, &all, false).unwrap_err();
    assert!(matches!(error, TrustError::SimulatedGpus), "{error}");
    let hardware = TrustConfig { gpu: Some(PeerGpuConfig::default()), ..hardware };
    let gpu = Believed::of(&hardware, &all, false).unwrap().gpu.unwrap();
    assert_eq!(gpu.policy.platform(), evidence::gpu::GpuPlatform::Nvidia);
}
