//! A small publication with one release, for tests, fuzzing and numbers. Its keys are made from numbers.

use crate::publish::{Edition, Holders, RootPlan, Signers, Times};
use crate::{
    Anchor, ConfigRule, Document, Expiry, File, Machine, Measurements, Mirror, MirrorError, Pinned,
    PublicKey, ReleaseError, Role, SigningKey, State, Statement, Status, TcbAdvice, Trusted, Tuple, Version,
    name,
};
use evidence::show_time;
use measure::{Boot, Digest256, Digest384, Platform, Shape};
use std::collections::BTreeMap;

const DAY: u64 = 24 * 3600;

/// The publication, and settings that accept its release.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Every file by its path; a [`Mirror`] of itself.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The first root.
    pub root: Vec<u8>,
    /// Settings with three rebuilders, of whom two must agree.
    pub anchor: Anchor,
    /// Its one release, `worker-0.1.0`.
    pub measurements: Measurements,
}

impl Mirror for Publication {
    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        match self.files.get(path) {
            Some(bytes) if bytes.len() > max => Err(MirrorError::Endless { path: path.into(), max }),
            found => Ok(found.cloned()),
        }
    }
}

/// The key of this number.
pub fn key(number: u8) -> Result<SigningKey, ReleaseError> {
    SigningKey::from_seed(&[number; 32])
}

fn public(numbers: &[u8]) -> Result<Vec<PublicKey>, ReleaseError> {
    numbers.iter().map(|number| Ok(key(*number)?.public())).collect()
}

/// A publication signed at `now` (Unix seconds); its timestamp lives for a day. Key 1 is the root's, 2 the targets', 3 the
/// snapshot's, 4 the timestamp's; 5, 6 and 7 are the rebuilders'. `machines` are made up, each with other registers.
pub fn publication(now: u64, machines: u8) -> Result<Publication, ReleaseError> {
    publish(now, measurements(machines))
}

/// The same of one machine, whose registers these are.
pub fn publication_of(now: u64, registers: Tuple) -> Result<Publication, ReleaseError> {
    let mut measurements = measurements(1);
    measurements.machines.iter_mut().for_each(|machine| machine.registers = registers.clone());
    publish(now, measurements)
}

impl Publication {
    /// The next edition, signed at `now`, in which the release has this status.
    pub fn restate(&mut self, now: u64, state: State) -> Result<(), ReleaseError> {
        let mut trusted = Trusted::new(self.anchor.root, &self.root)?;
        trusted.refresh(self, now, Expiry::Ignore)?;
        let mut document = document(&self.measurements.to_bytes()?, times(now, 200));
        let reason = (state != State::Active).then(|| "a hole in the engine".to_owned());
        document.status = Status { state, reason };
        let mut edition = Edition::of(&trusted);
        edition.add(&self.measurements.id()?.target(name::RELEASE), document.to_bytes()?)?;
        self.files.extend(signed(edition, now)?);
        Ok(())
    }
}

fn times(now: u64, days: u64) -> Times {
    Times { issued: now, expires: now + days * DAY }
}

fn signed(edition: Edition, now: u64) -> Result<Vec<(String, Vec<u8>)>, ReleaseError> {
    let (targets, snapshot, timestamp) = ([key(2)?], [key(3)?], [key(4)?]);
    edition.sign(&Signers {
        targets: Some((&targets, times(now, 90))),
        snapshot: Some((&snapshot, times(now, 14))),
        timestamp: (&timestamp, times(now, 1)),
    })
}

fn publish(now: u64, measurements: Measurements) -> Result<Publication, ReleaseError> {
    let holders = |number| Ok::<_, ReleaseError>(Holders { keys: public(&[number])?, threshold: 1 });
    let roles = Role::ALL.into_iter().zip(1..).map(|(role, number)| Ok((role, holders(number)?)));
    let holders = roles.collect::<Result<_, ReleaseError>>()?;
    let plan = RootPlan { version: 1, issued: now, expires: now + 365 * DAY, holders };
    let mut root = plan.unsigned()?;
    root.sign(&key(1)?);
    let root = root.to_bytes()?;
    let pinned = Digest256::of(&root);
    let (id, bytes) = (measurements.id()?, measurements.to_bytes()?);
    let mut edition = Edition::of(&Trusted::new(pinned, &root)?);
    for number in 5..=7 {
        let (target, statement) = Statement::sign(&id, Digest256::of(&bytes), now, &key(number)?)?;
        edition.add(&target, statement)?;
    }
    edition.add(&id.target(name::RELEASE), document(&bytes, times(now, 200)).to_bytes()?)?;
    edition.add(&id.target(name::MEASUREMENTS), bytes)?;
    let mut files: BTreeMap<_, _> = signed(edition, now)?.into_iter().collect();
    files.insert("metadata/1.root.json".into(), root.clone());
    Ok(Publication { files, root, anchor: anchor(pinned)?, measurements })
}

fn anchor(root: Digest256) -> Result<Anchor, ReleaseError> {
    Ok(Anchor {
        schema: 1,
        root,
        rebuilders: public(&[5, 6, 7])?,
        threshold: 2,
        names: vec!["worker".into()],
        minimum: BTreeMap::new(),
        not_before: None,
        refresh_seconds: 3600,
        grace_seconds: 0,
        accept_deprecated: true,
    })
}

fn document(measurements: &[u8], times: Times) -> Document {
    Document {
        schema: 1,
        name: "worker".into(),
        version: Version([0, 1, 0]),
        status: Status { state: State::Active, reason: None },
        measurements: Pinned::of(measurements),
        sbom: None,
        valid_from: show_time(times.issued),
        valid_until: show_time(times.expires),
        tcb: TcbAdvice { accept: vec!["UpToDate".into()], min_evaluation: 0 },
        gpu: Vec::new(),
    }
}

fn measurements(machines: u8) -> Measurements {
    let firmware = Digest256([7; 32]);
    let machine = |number: u8| {
        let digest = Digest384([number; 48]);
        Machine {
            platform: Platform::Tdx,
            boot: Boot::Direct,
            firmware,
            vmm: "qemu 10.2, single-pass".into(),
            stub: "systemd-stub 257".into(),
            shape: Shape::new(u32::from(number), 4096),
            registers: Tuple { mrtd: digest, rtmr0: digest, rtmr1: digest, rtmr2: digest, rtmr3: None },
        }
    };
    Measurements {
        schema: 1,
        name: "worker".into(),
        version: Version([0, 1, 0]),
        profile: "worker".into(),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        toolchain: "rustc".into(),
        kernel: "6.12".into(),
        locks: [("packages.lock".to_owned(), Digest256([3; 32]))].into(),
        artifacts: vec![File { name: "uki.efi".into(), sha256: Digest256([4; 32]), size: 12_000_000 }],
        firmware: vec![File { name: "OVMF.fd".into(), sha256: firmware, size: 4_194_304 }],
        mrconfigid: ConfigRule::Sha384OfStaticConfiguration,
        machines: (1..=machines).map(machine).collect(),
        models: Vec::new(),
    }
}
