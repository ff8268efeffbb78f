//! Why a machine shows other registers than expected: which event differs, and which machine it is.
//!
//! ```text
//! evidence --parse--> registers, log, claims --.
//! files --gather--> releases --foretell--------+--> search, register by register --.
//! expected shape --rings of near shapes--------'                                   +--> Explanation
//!                                    log --> event by event, digests looked up ----'
//! ```
//! Forward, with a log that adds up to the registers: each event beside the foretold one. Inverse, without one: artifacts,
//! machines, boot forms, profiles and small changes of the command line are tried until a register comes out. Both end
//! in one sentence. Deliberately absent: trust. Nothing here says that evidence is genuine.
//! Facts, forms and bounds: docs/reference/explain.md.

mod align;
mod artifacts;
mod decode;
mod encoding;
mod evidence;
mod explainer;
mod fact;
mod forward;
mod known;
mod machines;
mod rebuilt;
mod record;
mod registers;
mod report;
mod search;
mod tables;
mod template;
#[cfg(test)]
mod tests;
mod text;
mod words;

use crate::register::Digest384;
use crate::shape::{Platform, QemuVersion, Shape};
use explainer::{Explainer, finish};
use known::Known;
use registers::CapturedDigests;
use template::Templates;

pub use artifacts::{Artifacts, Captured, File, Kind, Named, OwnedPayload, Release, classify};
pub use evidence::{Claims, Evidence, EvidenceError, MAX_FILE};
pub use fact::{Axis, Fact};
pub use forward::{EventReport, EventStatus};
pub use machines::{Bounds, rtmr0_of};
pub use record::{Form, Log, MAX_EVENTS, Record};
pub use report::{Explanation, FileReport, LogReport, RegisterReport, Verdict};
pub use template::Expected;
pub use words::{Word, diff};

/// Explains some evidence. `expected` says what it is to be held against.
pub fn explain(
    evidence: &Evidence,
    artifacts: &Artifacts<'_>,
    expected: &Expected,
    bounds: Bounds,
) -> Explanation {
    let seeds = seeds(evidence, artifacts, expected);
    let typical = seeds.first().cloned().unwrap_or_else(|| Shape::new(2, 4096));
    let templates = Templates::of(artifacts, expected, &typical);
    let captured = captured(artifacts);
    let initrds = initrds(artifacts);
    let known = Known::of(&templates, &captured, &initrds, expected.shape.as_ref(), &seeds, bounds);
    let explainer = Explainer {
        evidence,
        expected,
        templates: &templates,
        captured: &captured,
        initrds: &initrds,
        seeds: &seeds,
        bounds,
        known,
        artifacts,
    };
    finish(evidence, artifacts, &templates, explainer.registers())
}

/// Shapes to begin with: the expected one, else those of the files, else what the evidence claims.
fn seeds(evidence: &Evidence, artifacts: &Artifacts<'_>, expected: &Expected) -> Vec<Shape> {
    if let Some(shape) = &expected.shape {
        return vec![shape.clone()];
    }
    let mut seeds: Vec<Shape> = Vec::new();
    let files = artifacts.releases.iter().flat_map(|r| &r.shapes).map(|named| named.item.clone());
    for shape in files.chain(claimed(&evidence.claims)) {
        if !seeds.contains(&shape) {
            seeds.push(shape);
        }
    }
    seeds
}

/// The shape that evidence claims, as far as a shape can say it.
fn claimed(claims: &Claims) -> Option<Shape> {
    let mut shape = Shape::new(claims.vcpus?, claims.memory_mib?);
    let small = |n: Option<u32>| n.and_then(|n| u8::try_from(n).ok()).unwrap_or(0);
    (shape.gpus, shape.nvswitches) = (small(claims.gpus), small(claims.nvswitches));
    let version = claims.qemu.as_deref().unwrap_or_default();
    let known =
        QemuVersion::ALL.into_iter().find(|v| version == v.name() || version.starts_with(&format!("{v}.")));
    shape.qemu = known.unwrap_or(shape.qemu);
    shape.check(Platform::Tdx).is_ok().then_some(shape)
}

fn captured(artifacts: &Artifacts<'_>) -> Vec<CapturedDigests> {
    let mut out: Vec<CapturedDigests> = Vec::new();
    for set in artifacts.releases.iter().flat_map(|release| &release.acpi) {
        if out.iter().any(|known| known.path == set.path) {
            continue;
        }
        out.push(CapturedDigests {
            path: set.path.clone(),
            acpi: machines::acpi_digests(&set.item.blobs),
            vcpus: tables::processors(&set.item.blobs.tables),
            tables: set.item.blobs.tables.clone(),
        });
    }
    out
}

fn initrds(artifacts: &Artifacts<'_>) -> Vec<(String, Digest384)> {
    let mut out: Vec<(String, Digest384)> = Vec::new();
    for initrd in artifacts.releases.iter().flat_map(|release| &release.initrds) {
        if !out.iter().any(|(path, _)| *path == initrd.path) {
            out.push((initrd.path.clone(), Digest384::of(initrd.item)));
        }
    }
    out
}
