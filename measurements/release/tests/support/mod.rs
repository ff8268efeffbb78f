//! A publisher, rebuilders and a mirror in memory. All keys are made from numbers: nothing here is a secret.

#![allow(dead_code, reason = "each test file uses its own part")]

use measure::{Boot, Digest256, Digest384, Platform, Shape};
use release::publish::{Edition, Holders, RootPlan, Signers, Times, Unsigned};
use release::{
    Anchor, ConfigRule, Document, Expiry, File, Machine, Measurements, Mirror, MirrorError, Pinned,
    PublicKey, ReleaseError, ReleaseId, Role, SigningKey, State, Statement, Status, TcbAdvice, Trusted,
    Tuple, Version, name, statement_target,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// When the tests begin, Unix seconds.
pub const T0: u64 = 1_800_000_000;
pub const HOUR: u64 = 3600;
pub const DAY: u64 = 24 * HOUR;

/// Seeds of the publisher's keys.
pub const ROOT: [u8; 3] = [1, 2, 3];
pub const TARGETS: u8 = 10;
pub const SNAPSHOT: u8 = 11;
pub const TIMESTAMP: u8 = 12;
/// Seeds of the rebuilders' keys.
pub const REBUILDERS: [u8; 4] = [20, 21, 22, 23];

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

pub fn keys(seeds: &[u8]) -> Vec<SigningKey> {
    seeds.iter().map(|seed| key(*seed)).collect()
}

pub fn public(seeds: &[u8]) -> Vec<PublicKey> {
    seeds.iter().map(|seed| key(*seed).public()).collect()
}

/// Files that several hands hold: a test changes them while a keeper reads.
#[derive(Debug, Clone, Default)]
pub struct Shared(pub Arc<Mutex<State_>>);

#[derive(Debug, Default)]
pub struct State_ {
    pub files: BTreeMap<String, Vec<u8>>,
    pub gone: bool,
    pub fetched: usize,
}

impl Mirror for Shared {
    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        let mut state = self.0.lock().unwrap();
        state.fetched += 1;
        if state.gone {
            return Err(MirrorError::Unreachable { path: path.into(), why: "it is gone".into() });
        }
        match state.files.get(path) {
            Some(bytes) if bytes.len() > max => Err(MirrorError::Endless { path: path.into(), max }),
            found => Ok(found.cloned()),
        }
    }
}

/// Ends of targets, snapshot and timestamp, seconds after they are signed.
#[derive(Debug, Clone, Copy)]
pub struct Lives(pub [u64; 3]);

pub struct Publisher {
    pub mirror: Shared,
    pub root: Vec<u8>,
    pub now: u64,
    pub lives: Lives,
    pub online: [u8; 2],
    pub targets_key: u8,
    /// What was published before a new root came.
    pub before_root: Option<Trusted>,
}

impl Publisher {
    /// A publication with nothing in it: root (2 of 3), targets, snapshot, timestamp.
    pub fn new() -> Self {
        Self::at(T0)
    }

    /// As [`Publisher::new`], made at another time.
    pub fn at(now: u64) -> Self {
        let holders = |seeds: &[u8], threshold| Holders { keys: public(seeds), threshold };
        let plan = RootPlan {
            version: 1,
            issued: now,
            expires: now + 365 * DAY,
            holders: [
                (Role::Root, holders(&ROOT, 2)),
                (Role::Targets, holders(&[TARGETS], 1)),
                (Role::Snapshot, holders(&[SNAPSHOT], 1)),
                (Role::Timestamp, holders(&[TIMESTAMP], 1)),
            ]
            .into(),
        };
        let root = signed(plan.unsigned().unwrap(), &ROOT[..2]);
        let mut publisher = Publisher {
            mirror: Shared::default(),
            root: root.clone(),
            now,
            lives: Lives([90 * DAY, 14 * DAY, DAY]),
            online: [SNAPSHOT, TIMESTAMP],
            targets_key: TARGETS,
            before_root: None,
        };
        publisher.put("metadata/1.root.json", root);
        publisher.publish(Vec::new());
        publisher
    }

    pub fn put(&mut self, path: &str, bytes: Vec<u8>) {
        self.mirror.0.lock().unwrap().files.insert(path.into(), bytes);
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.mirror.0.lock().unwrap().files[path].clone()
    }

    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.mirror.0.lock().unwrap().files.clone()
    }

    pub fn set_files(&self, files: BTreeMap<String, Vec<u8>>) {
        self.mirror.0.lock().unwrap().files = files;
    }

    pub fn set_gone(&self, gone: bool) {
        self.mirror.0.lock().unwrap().gone = gone;
    }

    /// What a consumer without memory trusts.
    pub fn trusted(&self) -> Trusted {
        let mut trusted = Trusted::new(Digest256::of(&self.root), &self.root).unwrap();
        // The first edition starts from the root alone.
        let _ = trusted.refresh(&mut self.mirror.clone(), self.now, Expiry::Ignore);
        trusted
    }

    /// Puts the next root in place; the next version still follows what was published before it.
    pub fn put_root(&mut self, version: u64, bytes: Vec<u8>) {
        self.before_root = Some(self.trusted());
        self.put(&format!("metadata/{version}.root.json"), bytes);
    }

    /// The next version, with these targets added.
    pub fn publish(&mut self, added: Vec<(String, Vec<u8>)>) {
        let before = self.before_root.take().unwrap_or_else(|| self.trusted());
        let mut edition = Edition::of(&before);
        for (name, bytes) in added {
            edition.add(&name, bytes).unwrap();
        }
        let times = |life: u64| Times { issued: self.now, expires: self.now + life };
        let Lives([targets, snapshot, timestamp]) = self.lives;
        let (t, s, ts) = (keys(&[self.targets_key]), keys(&self.online[..1]), keys(&self.online[1..]));
        let files = edition.sign(&Signers {
            targets: Some((&t, times(targets))),
            snapshot: Some((&s, times(snapshot))),
            timestamp: (&ts, times(timestamp)),
        });
        files.unwrap().into_iter().for_each(|(path, bytes)| self.put(&path, bytes));
    }

    /// Only says again that nothing changed.
    pub fn renew(&mut self) {
        let keys = keys(&self.online[1..]);
        let times = Times { issued: self.now, expires: self.now + self.lives.0[2] };
        let signers = Signers { targets: None, snapshot: None, timestamp: (&keys, times) };
        let files = Edition::of(&self.trusted()).sign(&signers).unwrap();
        files.into_iter().for_each(|(path, bytes)| self.put(&path, bytes));
    }

    /// A release with statements of these rebuilders.
    pub fn release(&mut self, version: [u32; 3], rebuilders: &[u8]) -> Measurements {
        let measurements = measurements("worker", version, version[2] as u8 + 1);
        self.publish(files_of(&measurements, State::Active, rebuilders));
        measurements
    }
}

/// The targets of a release.
pub fn files_of(measurements: &Measurements, state: State, rebuilders: &[u8]) -> Vec<(String, Vec<u8>)> {
    let id = measurements.id().unwrap();
    let bytes = measurements.to_bytes().unwrap();
    let document = document(measurements, state).to_bytes().unwrap();
    let mut files: Vec<_> = rebuilders.iter().map(|seed| statement(&id, &bytes, *seed)).collect();
    files.push((id.target(name::RELEASE), document));
    files.push((id.target(name::MEASUREMENTS), bytes));
    files
}

pub fn statement(id: &ReleaseId, measurements: &[u8], seed: u8) -> (String, Vec<u8>) {
    let (name, bytes) = Statement::sign(id, Digest256::of(measurements), T0, &key(seed)).unwrap();
    assert_eq!(name, statement_target(id, &key(seed).public()));
    (name, bytes)
}

pub fn document(measurements: &Measurements, state: State) -> Document {
    let reason = (state != State::Active).then(|| "a hole in the engine".to_owned());
    Document {
        schema: 1,
        name: measurements.name.clone(),
        version: measurements.version,
        status: Status { state, reason },
        measurements: Pinned::of(&measurements.to_bytes().unwrap()),
        sbom: None,
        valid_from: "2020-01-01T00:00:00Z".into(),
        valid_until: "2090-01-01T00:00:00Z".into(),
        tcb: TcbAdvice { accept: vec!["UpToDate".into()], min_evaluation: 0 },
        gpu: Vec::new(),
    }
}

pub fn measurements(name: &str, version: [u32; 3], fill: u8) -> Measurements {
    let digest = Digest384([fill; 48]);
    let firmware = Digest256([7; 32]);
    Measurements {
        schema: 1,
        name: name.into(),
        version: Version(version),
        profile: name.into(),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        toolchain: "rustc 1.95.0".into(),
        kernel: "6.12.107+deb13-cloud-amd64".into(),
        locks: [("packages.lock".to_owned(), Digest256([3; 32]))].into(),
        artifacts: vec![File { name: "uki.efi".into(), sha256: Digest256([4; 32]), size: 12_000_000 }],
        firmware: vec![File { name: "OVMF.fd".into(), sha256: firmware, size: 4_194_304 }],
        mrconfigid: ConfigRule::Sha384OfStaticConfiguration,
        machines: vec![Machine {
            platform: Platform::Tdx,
            boot: Boot::Direct,
            firmware,
            vmm: "qemu 10.2, single-pass".into(),
            stub: "systemd-stub 257".into(),
            shape: Shape::new(2, 4096),
            registers: Tuple { mrtd: digest, rtmr0: digest, rtmr1: digest, rtmr2: digest, rtmr3: None },
        }],
        models: Vec::new(),
    }
}

pub fn anchor(publisher: &Publisher, threshold: u32) -> Anchor {
    let rebuilders: Vec<_> = public(&REBUILDERS).iter().map(|key| format!("\"{key}\"")).collect();
    let root = Digest256::of(&publisher.root);
    let text = format!(
        "schema = 1\nroot = \"{root}\"\nthreshold = {threshold}\nnames = [\"worker\"]\nrebuilders = [{}]\n",
        rebuilders.join(", ")
    );
    Anchor::parse(&text).unwrap()
}

pub fn signed(mut unsigned: Unsigned, seeds: &[u8]) -> Vec<u8> {
    keys(seeds).iter().for_each(|key| unsigned.sign(key));
    unsigned.to_bytes().unwrap()
}

/// Changes what is signed and signs it again.
pub fn resigned(bytes: &[u8], seeds: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut whole: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    change(&mut whole["signed"]);
    whole["signatures"] = serde_json::json!([]);
    signed(Unsigned::parse("test", &serde_json::to_vec(&whole).unwrap()).unwrap(), seeds)
}

/// What a consumer without memory says of the mirror.
pub fn refused(publisher: &Publisher) -> ReleaseError {
    refresh(publisher, publisher.now).unwrap_err()
}

pub fn refresh(publisher: &Publisher, now: u64) -> Result<Trusted, ReleaseError> {
    let mut trusted = Trusted::new(Digest256::of(&publisher.root), &publisher.root)?;
    trusted.refresh(&mut publisher.mirror.clone(), now, Expiry::Enforce).map(|()| trusted)
}
