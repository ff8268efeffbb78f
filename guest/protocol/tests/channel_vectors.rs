//! The test vectors of `docs/reference/channel.md`, which another implementation (Python's hashlib) computed from the
//! specification, hold for this one.

use protocol::batch::Proof;
use protocol::channel::{
    ApplicationKey, ApplicationKeys, Binding, Challenge, Control, Direction, GpuDemand, GpuShown, Part,
    Refuse, Shown, gpu_nonce, solve, solves,
};
use protocol::evidence::{EventLog, Evidence, LogFormat};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../docs/reference/channel.md");
/// SubjectPublicKeyInfo of P-256's base point, uncompressed.
const KEY: &str = concat!(
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004",
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
);

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).expect("hex") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The block of the page behind the heading `Test vectors`: a name and a colon, then lines of hex.
fn vectors() -> BTreeMap<&'static str, Vec<u8>> {
    let block = PAGE.split("## Test vectors").nth(1).unwrap().split("```").nth(1).unwrap();
    let mut found: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut name = "";
    for line in block.lines().skip(1) {
        match line.strip_suffix(':') {
            Some(next) => name = next,
            None => found.entry(name).or_default().extend(unhex(line.trim())),
        }
    }
    found
}

const EXPORTER: fn() -> [u8; 32] = || std::array::from_fn(|i| i as u8);

fn bare() -> Challenge {
    Challenge::new(std::array::from_fn(|i| 0x20 + i as u8), Part::Client, Part::Worker)
}

fn key(name: &str, fill: u8) -> ApplicationKey {
    ApplicationKey { name: name.into(), key: vec![fill; 32] }
}

fn full() -> Challenge {
    Challenge {
        from: Part::Proxy,
        release: Some([0x72; 32]),
        identity: Some(key("session", 0x6b)),
        gpu: GpuDemand::Cached { max_age_s: 3600 },
        solution: Some(7),
        ..bare()
    }
}

fn keys() -> ApplicationKeys {
    ApplicationKeys::new(vec![key("session", 0x6b), key("billing", 0x62)]).unwrap()
}

fn gpu() -> GpuShown {
    GpuShown { envelope: b"[]".to_vec(), nonce: [0x67; 32], age_s: 60 }
}

fn batch() -> Proof {
    Proof::from_bytes(&[[1, 1].as_slice(), &[0xaa; 64]].concat()).unwrap()
}

fn shown() -> Shown {
    let machine = Evidence {
        quote: b"quote".to_vec(),
        event_log: EventLog { format: LogFormat::Ccel, bytes: b"log".to_vec() },
        static_config: b"schema = 1\n".to_vec(),
        runtime: b"runtime".to_vec(),
    };
    Shown { machine, keys: ApplicationKeys::default(), gpu: None, batch: Proof::default() }
}

#[test]
fn messages_have_the_published_encodings() {
    let vectors = vectors();
    let full_shown = Shown { keys: keys(), gpu: Some(gpu()), batch: batch(), ..shown() };
    let rows = [
        ("challenge", bare().to_bytes()),
        ("challenge full", full().to_bytes()),
        ("challenge full SHA-256", full().digest().to_vec()),
        ("application keys", keys().to_bytes()),
        ("evidence", shown().to_bytes()),
        ("evidence full", full_shown.to_bytes()),
        ("retry 12", Control::Retry { difficulty: 12 }.to_bytes()),
        ("refuse busy", Control::Refuse(Refuse::Busy).to_bytes()),
        ("accepted", Control::Accepted.to_bytes()),
    ];
    for (name, ours) in rows {
        assert_eq!(Some(&ours), vectors.get(name), "{name}");
    }
    assert_eq!(Challenge::from_bytes(&vectors["challenge full"]).unwrap(), full());
    assert_eq!(Shown::from_bytes(&vectors["evidence full"]).unwrap(), full_shown);
}

#[test]
fn bindings_have_the_published_values() {
    let vectors = vectors();
    let (none, keys, gpu, public_key, exporter) =
        (ApplicationKeys::default(), keys(), gpu(), unhex(KEY), EXPORTER());
    let one_way = Binding {
        direction: Direction::Responder,
        attester: Part::Worker,
        verifier: Part::Client,
        exporter: &exporter,
        challenge: &bare().digest(),
        responder_key: &public_key,
        keys: &none,
        gpu: None,
    };
    assert_eq!(one_way.report_data().to_vec(), vectors["binding one-way"]);
    let mutual = Binding {
        direction: Direction::Initiator,
        verifier: Part::Proxy,
        challenge: &full().digest(),
        responder_key: b"verifier",
        keys: &keys,
        gpu: Some(&gpu),
        ..one_way
    };
    assert_eq!(mutual.report_data().to_vec(), vectors["binding mutual"]);
    assert_eq!(batch().report_data(&mutual.report_data()).to_vec(), vectors["report data mutual"]);
    let nonce = gpu_nonce(&exporter, &full().digest(), Direction::Responder);
    assert_eq!(nonce.to_vec(), vectors["gpu nonce"]);
}

#[test]
fn work_has_the_published_solution() {
    let solution = u64::from_be_bytes(vectors()["solution of 12 bits"].clone().try_into().unwrap());
    assert!(solves(&EXPORTER(), solution, 12));
    assert_eq!(solve(&EXPORTER(), 12), Some(solution));
}

#[test]
fn every_vector_of_the_page_is_checked_somewhere() {
    // `release` is checked where releases are (measurements/evidence).
    assert_eq!(vectors().len(), 15);
}

#[test]
fn the_page_states_the_bounds_of_evidence() {
    let stated = |bytes: usize| {
        let text = bytes.to_string();
        let (head, tail) = text.split_at(text.len() % 3);
        let groups = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
        let groups: Vec<String> =
            Some(head.to_owned()).filter(|h| !h.is_empty()).into_iter().chain(groups).collect();
        groups.join(",")
    };
    let row = format!(
        "{} bytes without GPU evidence, {} with",
        stated(protocol::channel::MAX_SHOWN_WITHOUT_GPU),
        stated(protocol::channel::MAX_SHOWN)
    );
    assert!(PAGE.contains(&row), "{row}");
}
