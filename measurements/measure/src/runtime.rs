//! RTMR3: what the guest measures of itself once it runs, as a type in measurement order.
//!
//! ```text
//! static-config -> model (0 to 256) -> gpu -> sealed        digest = SHA-384(event's bytes), RTMR3 = fold of the digests
//!
//! event:   field "chrysalis/rtmr3/1" | u32 kind | fields of the kind
//! record:  "CHRYRT01" | u32 extension (1 extended, 2 not extended) | u32 number of events | field event ...
//! ```
//! Shared by the guest, which extends the digests one by one, and the verifier, which folds them again. There is one
//! encoding of each event and each record. Normative, with test vectors: docs/reference/runtime-events.md.
//!
//! Deliberately absent: a way to append to a sealed log, and a sealed log that lacks one of the obligatory events.

use crate::codec::{CodecError, Reader, put};
use crate::register::Digest384;
use std::fmt;
use std::marker::PhantomData;

/// First field of every event.
const TAG: &[u8] = b"chrysalis/rtmr3/1";
const RECORD_MAGIC: &[u8; 8] = b"CHRYRT01";
/// More models than a machine has slots for disks.
pub const MAX_MODELS: usize = 256;
const MAX_EVENTS: u32 = MAX_MODELS as u32 + 3;
const MAX_NAME: usize = 64;
/// Tag, kind and the longest fields (a model's), each with its length.
const MAX_EVENT: usize = 4 + TAG.len() + 4 + 4 + MAX_NAME + 4 + 48;
/// Largest record; it also bounds what a reader takes in.
pub const MAX_RECORD: usize = 16 + MAX_EVENTS as usize * (4 + MAX_EVENT);

/// One measured event, in measurement order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// First, once: the static configuration as it was handed over.
    StaticConfig {
        /// SHA-384 of its bytes, which MRCONFIGID must equal as well.
        sha384: Digest384,
    },
    /// Any number, in the order of the configuration: a model disk was opened under this root.
    Model {
        /// Name of the pin, 1 to 64 letters, digits, `-`, `_` or `.`.
        name: String,
        /// dm-verity root hash (SHA-256).
        root: [u8; 32],
    },
    /// Once, after the models: what was found of the GPUs.
    Gpu(GpuEvidence),
    /// Last, once: nothing may be extended from here on.
    Sealed,
}

/// By which policy GPU evidence was judged, and the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuEvidence {
    /// SHA-384 of the policy's bytes; of no bytes where there is no policy.
    pub policy: Digest384,
    /// A guest whose GPU was refused doesn't come as far as to measure it.
    pub verdict: GpuVerdict,
}

impl GpuEvidence {
    /// No GPU was used, and no policy asks for one.
    pub fn none() -> Self {
        GpuEvidence { policy: Digest384::of(&[]), verdict: GpuVerdict::NoGpu }
    }
}

/// Outcome of the appraisal of GPU evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuVerdict {
    /// The guest uses no GPU.
    NoGpu,
    /// Accepted; SHA-384 of the verdict's bytes.
    Accepted(Digest384),
}

impl RuntimeEvent {
    /// What is hashed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, TAG);
        let kind = Kind::of(self);
        out.extend_from_slice(&(kind as u32).to_be_bytes());
        match self {
            RuntimeEvent::StaticConfig { sha384 } => put(&mut out, &sha384.0),
            RuntimeEvent::Model { name, root } => {
                put(&mut out, name.as_bytes());
                put(&mut out, root);
            }
            RuntimeEvent::Gpu(gpu) => {
                put(&mut out, &gpu.policy.0);
                match &gpu.verdict {
                    GpuVerdict::NoGpu => put(&mut out, &[]),
                    GpuVerdict::Accepted(digest) => put(&mut out, &digest.0),
                }
            }
            RuntimeEvent::Sealed => {}
        }
        out
    }

    /// What RTMR3 is extended by.
    pub fn digest(&self) -> Digest384 {
        Digest384::of(&self.to_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, RuntimeError> {
        let mut r = Reader::new(bytes);
        r.expect("length of the event's tag", &(TAG.len() as u32).to_be_bytes())?;
        r.expect("event's tag", TAG)?;
        let offset = 4 + TAG.len();
        let event = match r.u32("event kind")? {
            1 => RuntimeEvent::StaticConfig { sha384: digest(&mut r, "SHA-384 of the configuration")? },
            2 => RuntimeEvent::Model { name: name(&mut r)?, root: array(&mut r, "model root")? },
            3 => RuntimeEvent::Gpu(gpu(&mut r)?),
            4 => RuntimeEvent::Sealed,
            other => return Err(wrong("event kind", offset, "1 to 4", other.to_string()).into()),
        };
        r.finish()?;
        Ok(event)
    }
}

impl fmt::Display for RuntimeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuntimeEvent::StaticConfig { sha384 } => write!(f, "static-config {:.16}", sha384.to_string()),
            RuntimeEvent::Model { name, root } => write!(f, "model {name} {:.16}", hex::encode(root)),
            RuntimeEvent::Gpu(GpuEvidence { verdict: GpuVerdict::NoGpu, .. }) => f.write_str("gpu none"),
            RuntimeEvent::Gpu(gpu) => write!(f, "gpu accepted under policy {:.16}", gpu.policy.to_string()),
            RuntimeEvent::Sealed => f.write_str("sealed"),
        }
    }
}

fn array<const N: usize>(r: &mut Reader<'_>, what: &'static str) -> Result<[u8; N], CodecError> {
    r.expect(what, &(N as u32).to_be_bytes())?;
    let mut out = [0; N];
    out.copy_from_slice(r.take(what, N)?);
    Ok(out)
}

fn digest(r: &mut Reader<'_>, what: &'static str) -> Result<Digest384, CodecError> {
    array(r, what).map(Digest384)
}

fn name(r: &mut Reader<'_>) -> Result<String, RuntimeError> {
    let bytes = r.field("model name", MAX_NAME)?;
    let text = String::from_utf8_lossy(bytes).into_owned();
    check_name(&text)?;
    Ok(text)
}

fn gpu(r: &mut Reader<'_>) -> Result<GpuEvidence, CodecError> {
    let policy = digest(r, "SHA-384 of the GPU policy")?;
    let found = r.field("SHA-384 of the GPU verdict", 48)?;
    let verdict = match <[u8; 48]>::try_from(found) {
        Ok(digest) => GpuVerdict::Accepted(Digest384(digest)),
        Err(_) if found.is_empty() => GpuVerdict::NoGpu,
        Err(_) => {
            let offset = 4 + TAG.len() + 4 + 4 + 48;
            return Err(wrong(
                "SHA-384 of the GPU verdict",
                offset,
                "0 or 48 bytes",
                found.len().to_string(),
            ));
        }
    };
    Ok(GpuEvidence { policy, verdict })
}

fn wrong(what: &'static str, offset: usize, expected: &str, found: String) -> CodecError {
    CodecError::Wrong { what, offset, expected: expected.into(), found }
}

/// As the static configuration demands it of the name of a pin.
fn check_name(name: &str) -> Result<(), RuntimeError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(RuntimeError::Name { found: name.escape_debug().take(MAX_NAME).collect() });
    }
    Ok(())
}

/// What an event is, in measurement order; the numbers are those of the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`RuntimeEvent::StaticConfig`].
    StaticConfig = 1,
    /// [`RuntimeEvent::Model`].
    Model = 2,
    /// [`RuntimeEvent::Gpu`].
    Gpu = 3,
    /// [`RuntimeEvent::Sealed`].
    Sealed = 4,
}

impl Kind {
    fn of(event: &RuntimeEvent) -> Self {
        match event {
            RuntimeEvent::StaticConfig { .. } => Kind::StaticConfig,
            RuntimeEvent::Model { .. } => Kind::Model,
            RuntimeEvent::Gpu(_) => Kind::Gpu,
            RuntimeEvent::Sealed => Kind::Sealed,
        }
    }

    /// The kinds that may follow; nothing follows the seal.
    fn next(last: Option<Kind>) -> &'static [Kind] {
        match last {
            None => &[Kind::StaticConfig],
            Some(Kind::StaticConfig | Kind::Model) => &[Kind::Model, Kind::Gpu],
            Some(Kind::Gpu) => &[Kind::Sealed],
            Some(Kind::Sealed) => &[],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::StaticConfig => "static-config",
            Kind::Model => "model",
            Kind::Gpu => "gpu",
            Kind::Sealed => "sealed",
        })
    }
}

/// Why events are not a runtime log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The bytes are not in the encoding.
    #[error("runtime log: {0}; is it of this version?")]
    Codec(#[from] CodecError),
    /// The bytes of one event are not in the encoding; the offset is within the event.
    #[error("runtime log: event {index}: {source}; is it of this version?")]
    Event {
        /// Which event, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: CodecError,
    },
    /// An event stands where another one must.
    #[error("runtime log: event {index} is {found}, expected {expected}; one was dropped, moved or repeated")]
    Order {
        /// Which event, from 0.
        index: usize,
        /// What stands there.
        found: Kind,
        /// What may.
        expected: String,
    },
    /// Something follows the seal.
    #[error("runtime log: event {index} is {found}, expected nothing after sealed; it was extended too late")]
    AfterSeal {
        /// Which event, from 0.
        index: usize,
        /// What stands there.
        found: Kind,
    },
    /// The seal is missing.
    #[error("runtime log: ends after {events} events, expected sealed last; the guest had not finished")]
    Unsealed {
        /// How many there are.
        events: usize,
    },
    /// Two models of one name.
    #[error("runtime log: event {index} repeats model `{name}`, expected each name once")]
    Duplicate {
        /// Which event, from 0.
        index: usize,
        /// The name.
        name: String,
    },
    /// Not the name of a model.
    #[error("runtime log: model name `{found}`, expected 1 to 64 letters, digits, '-', '_' or '.'")]
    Name {
        /// What stands there, escaped.
        found: String,
    },
    /// Too many models.
    #[error("runtime log: more than {MAX_MODELS} models; give the guest fewer")]
    TooManyModels,
}

impl RuntimeError {
    /// The same, said of one event of a record.
    fn within(self, index: usize) -> Self {
        match self {
            RuntimeError::Codec(source) => RuntimeError::Event { index, source },
            other => other,
        }
    }
}

/// A log that still takes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {}

/// A log that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {}

/// The events of one boot, in order. `RuntimeLog<Open>` grows, [`RuntimeLog::seal`] makes it a `RuntimeLog<Sealed>`,
/// which nothing can be appended to: what appends is there for `RuntimeLog<Open>` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeLog<S> {
    events: Vec<RuntimeEvent>,
    state: PhantomData<S>,
}

impl<S> RuntimeLog<S> {
    /// The events so far, in measurement order.
    pub fn events(&self) -> &[RuntimeEvent] {
        &self.events
    }

    /// RTMR3 after these events, from zeros.
    pub fn rtmr3(&self) -> Digest384 {
        fold(&self.events)
    }
}

/// RTMR3 after any events, from zeros.
pub fn fold(events: &[RuntimeEvent]) -> Digest384 {
    let mut register = Digest384::ZERO;
    for event in events {
        register.extend(&event.digest());
    }
    register
}

impl RuntimeLog<Open> {
    /// Begins with what every log begins with; also returns the digest to extend.
    pub fn begin(static_config: Digest384) -> (Self, Digest384) {
        let first = RuntimeEvent::StaticConfig { sha384: static_config };
        let digest = first.digest();
        (RuntimeLog { events: vec![first], state: PhantomData }, digest)
    }

    /// Appends a model; returns the digest to extend.
    pub fn model(&mut self, name: &str, root: [u8; 32]) -> Result<Digest384, RuntimeError> {
        self.append(RuntimeEvent::Model { name: name.to_owned(), root })
    }

    /// Appends what was found of the GPUs; returns the digest to extend.
    pub fn gpu(&mut self, gpu: GpuEvidence) -> Result<Digest384, RuntimeError> {
        self.append(RuntimeEvent::Gpu(gpu))
    }

    /// Ends the log; also returns the digest to extend.
    pub fn seal(mut self) -> Result<(RuntimeLog<Sealed>, Digest384), RuntimeError> {
        let digest = self.append(RuntimeEvent::Sealed)?;
        Ok((RuntimeLog { events: self.events, state: PhantomData }, digest))
    }

    fn append(&mut self, event: RuntimeEvent) -> Result<Digest384, RuntimeError> {
        check(&self.events, &event)?;
        let digest = event.digest();
        self.events.push(event);
        Ok(digest)
    }
}

/// Whether `event` may follow `before`.
fn check(before: &[RuntimeEvent], event: &RuntimeEvent) -> Result<(), RuntimeError> {
    let (index, found) = (before.len(), Kind::of(event));
    let last = before.last().map(Kind::of);
    if last == Some(Kind::Sealed) {
        return Err(RuntimeError::AfterSeal { index, found });
    }
    let next = Kind::next(last);
    if !next.contains(&found) {
        let expected: Vec<String> = next.iter().map(Kind::to_string).collect();
        return Err(RuntimeError::Order { index, found, expected: expected.join(" or ") });
    }
    if let RuntimeEvent::Model { name, .. } = event {
        check_name(name)?;
        let same = |e: &RuntimeEvent| matches!(e, RuntimeEvent::Model { name: other, .. } if other == name);
        if before.iter().any(same) {
            return Err(RuntimeError::Duplicate { index, name: name.clone() });
        }
        if before.len() > MAX_MODELS {
            return Err(RuntimeError::TooManyModels);
        }
    }
    Ok(())
}

/// Whether the kernel could extend RTMR3 by the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// RTMR3 holds the fold of the log.
    Extended,
    /// The kernel can't: RTMR3 is zeros, and the log is the guest's word alone.
    NotExtended,
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Extension::Extended => "extended",
            Extension::NotExtended => "not extended",
        })
    }
}

/// A sealed log with what became of it, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeRecord {
    /// Whether the register holds it.
    pub extension: Extension,
    /// The events.
    pub log: RuntimeLog<Sealed>,
}

impl RuntimeRecord {
    /// Encodes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self.extension, self.log.events())
    }

    /// Decodes bytes from a peer: everything that a sealed log promises is checked, whether RTMR3 agrees is not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RuntimeError> {
        let mut r = Reader::new(bytes);
        r.expect("runtime record's magic", RECORD_MAGIC)?;
        let extension = match r.u32("extension")? {
            1 => Extension::Extended,
            2 => Extension::NotExtended,
            other => {
                return Err(
                    wrong("extension", 8, "1 (extended) or 2 (not extended)", other.to_string()).into()
                );
            }
        };
        let count = r.u32("number of events")?;
        if count > MAX_EVENTS {
            return Err(
                wrong("number of events", 12, &format!("at most {MAX_EVENTS}"), count.to_string()).into()
            );
        }
        // Not reserved beforehand: the count is a claim.
        let mut events = Vec::new();
        for _ in 0..count {
            let event =
                RuntimeEvent::from_bytes(r.field("event", MAX_EVENT)?).map_err(|e| e.within(events.len()))?;
            check(&events, &event)?;
            events.push(event);
        }
        r.finish()?;
        if events.last() != Some(&RuntimeEvent::Sealed) {
            return Err(RuntimeError::Unsealed { events: events.len() });
        }
        Ok(RuntimeRecord { extension, log: RuntimeLog { events, state: PhantomData } })
    }
}

/// The bytes of a record of any events, right or wrong; what is right is [`RuntimeRecord::from_bytes`]'s to say.
pub fn encode(extension: Extension, events: &[RuntimeEvent]) -> Vec<u8> {
    let mut out = RECORD_MAGIC.to_vec();
    let extension: u32 = match extension {
        Extension::Extended => 1,
        Extension::NotExtended => 2,
    };
    out.extend_from_slice(&extension.to_be_bytes());
    out.extend_from_slice(&u32::try_from(events.len()).unwrap_or(u32::MAX).to_be_bytes());
    for event in events {
        put(&mut out, &event.to_bytes());
    }
    out
}

#[cfg(test)]
mod tests;
