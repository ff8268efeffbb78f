//! Prediction and explanation of trust domains, in process: what a verifier pays beside hashing, for many shapes, and for a
//! search that finds nothing.
//!
//! The firmware is Debian's whole OVMF image, which has TDX metadata; the payload is the debug image's UKI.

use crate::predict;
use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use e2e::Stage;
use measure::explain::{Artifacts, Bounds, Evidence, Expected, File, explain, rtmr0_of};
use measure::firmware::tdvf::{self, Vmm};
use measure::{
    Boot, Digest384, FirmwareProfile, Inputs, Payload, Platform, Ranges, Shape, TdxOptions, predict_tdx,
    predict_tdx_with,
};
use sha2::{Digest, Sha256, Sha384};
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

/// Milliseconds that a prediction may take besides hashing.
const BESIDE_HASHING: f64 = 50.0;
/// How many times as long as the bare library its hashing may take.
const HASHING: f64 = 1.2;
/// Seconds for [`SHAPES`] shapes.
const SHAPES_LIMIT: f64 = 10.0;
const SHAPES: u32 = 1000;
/// Seconds for a search among [`CANDIDATES`].
const SEARCH_LIMIT: f64 = 5.0;
const CANDIDATES: usize = 10_000;
/// Samples of each.
const ROUNDS: usize = 5;
/// Where Debian's package has it.
const FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";

/// All numbers of this file.
pub fn measure(stage: &Stage, scratch: &Path) -> Result<Vec<Number>> {
    let settings = stage.fragment(scratch).settle()?;
    let uki = std::fs::read(&settings.image.uki).context("the UKI is unreadable")?;
    let firmware = std::fs::read(FIRMWARE).with_context(|| format!("{FIRMWARE} is unreadable"))?;
    let mut numbers = prediction(&firmware, &uki)?;
    numbers.push(hashing(&firmware, &uki)?);
    numbers.push(shapes(&firmware)?);
    numbers.push(search(&firmware, &uki)?);
    Ok(numbers)
}

fn inputs<'a>(firmware: &'a [u8], uki: Option<&'a [u8]>, shape: &'a Shape) -> Inputs<'a> {
    Inputs {
        platform: Platform::Tdx,
        boot: Boot::Direct,
        shape,
        firmware_code: firmware,
        firmware_vars: &[],
        payload: uki.map(Payload::Uki),
        disk_head: None,
    }
}

fn millis(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1e3
}

/// Everything of one shape with the firmware's profile remembered, less what hashing the same bytes takes; and anew.
fn prediction(firmware: &[u8], uki: &[u8]) -> Result<Vec<Number>> {
    let shape = Shape::new(32, 65536);
    let inputs = inputs(firmware, Some(uki), &shape);
    let profile = FirmwareProfile::of_tdvf(firmware)?;
    let remembered = || predict_tdx_with(&profile, &inputs, &TdxOptions::default());
    let registers = remembered()?.registers();
    ensure!(registers.is_ok(), "not every register is foretold: {registers:?}");
    let mut messages = predict::messages(uki)?;
    let mrtd = mrtd_message(firmware)?;
    messages.push(&mrtd);
    let [mut whole, mut plain, mut beside, mut anew] = [(); 4].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        whole.push(millis(|| drop(black_box(remembered()))));
        plain.push(predict::hash(&messages, predict::threads()));
        beside.push((whole[whole.len() - 1] - plain[plain.len() - 1]).max(0.0));
        anew.push(millis(|| drop(black_box(predict_tdx(&inputs, &TdxOptions::default())))));
    }
    let whole_number = Number::new("predict a trust domain", Unit::Milliseconds, &whole)
        .beside("plain SHA-384 + SHA-256 of the same bytes", &plain)
        .covers(
            "all registers in process, the firmware's profile remembered: tables generated, UKI taken apart",
        );
    let beside_number = Number::new("the same besides hashing", Unit::Milliseconds, &beside)
        .limit(Limit::AtMost(BESIDE_HASHING))
        .covers("the difference of the two, round by round");
    let anew_number = Number::new("the same, new firmware", Unit::Milliseconds, &anew)
        .beside("with its profile remembered", &whole)
        .covers("the firmware unpacked and its code read as well");
    Ok(vec![whole_number, beside_number, anew_number])
}

/// As many bytes as MRTD's message has, which is the image's chunks with a block before each.
fn mrtd_message(firmware: &[u8]) -> Result<Vec<u8>> {
    let sections = tdvf::metadata(firmware)?;
    let page = |s: &tdvf::Section| {
        let added = if s.attributes & 2 == 0 { 128 } else { 0 };
        let extended = if s.attributes & 1 == 1 { 16 * (128 + 256) } else { 0 };
        (s.memory_size / 4096) as usize * (added + extended)
    };
    Ok(vec![0x5a; sections.iter().map(page).sum()])
}

/// Our hashing of the largest messages beside the library's, one thread each.
fn hashing(firmware: &[u8], uki: &[u8]) -> Result<Number> {
    let messages = predict::messages(uki)?;
    let mrtd = mrtd_message(firmware)?;
    let [mut ours, mut plain] = [(); 2].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        ours.push(millis(|| {
            messages.iter().for_each(|message| {
                black_box(Ranges::from(*message).digests());
            });
            black_box(tdvf::mrtd(firmware, Vmm::SinglePass)).ok();
        }));
        plain.push(millis(|| {
            for message in &messages {
                black_box((Sha384::digest(message), Sha256::digest(message)));
            }
            black_box(Sha384::digest(&mrtd));
        }));
    }
    Ok(Number::new("hashing of a prediction", Unit::Milliseconds, &ours)
        .beside("the bare library, as many bytes", &plain)
        .limit(Limit::TimesPeer(HASHING))
        .covers("UKI messages in both algorithms and MRTD's pages, on one thread"))
}

/// RTMR0 of machines that differ in vCPUs and memory, tables generated.
fn shapes(firmware: &[u8]) -> Result<Number> {
    let shapes: Vec<Shape> =
        (0..SHAPES).map(|i| Shape::new(1 + i % 512, 2048 + 1024 * u64::from(i))).collect();
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS.min(3) {
        let began = Instant::now();
        let one = predict_tdx(&inputs(firmware, None, &shapes[0]), &TdxOptions::default())?;
        let values = rtmr0_of(&one, firmware, &shapes)?;
        seconds.push(began.elapsed().as_secs_f64());
        ensure!(one.register(measure::Register::Rtmr0) == values.first().copied(), "two ways, two values");
    }
    Ok(Number::new("1,000 shapes", Unit::Seconds, &seconds).limit(Limit::AtMost(SHAPES_LIMIT)).covers(
        "one prediction from the firmware, then RTMR0 of 1,000 shapes with 512 different sets of tables",
    ))
}

/// A search for an RTMR0 that no machine has.
fn search(firmware: &[u8], uki: &[u8]) -> Result<Number> {
    let files = [File { path: "OVMF.fd", bytes: firmware }, File { path: "uki.efi", bytes: uki }];
    let artifacts = Artifacts::gather(&files, "bench");
    let expected = Expected { shape: Some(Shape::new(32, 65536)), ..Expected::default() };
    let mut evidence = Evidence::default();
    evidence.registers[1] = Some(Digest384::of(b"no machine"));
    let bounds = Bounds { candidates: CANDIDATES, ..Bounds::default() };
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS.min(3) {
        let began = Instant::now();
        let explanation = explain(&evidence, &artifacts, &expected, bounds);
        seconds.push(began.elapsed().as_secs_f64());
        let tried = explanation.registers[1].tried;
        ensure!(tried == CANDIDATES, "{tried} candidates were tried, expected {CANDIDATES}");
    }
    Ok(Number::new("inverse search", Unit::Seconds, &seconds).limit(Limit::AtMost(SEARCH_LIMIT)).covers(
        "10,000 machines tried in vain, from the bare artifacts: hashing and unpacking them is included",
    ))
}
