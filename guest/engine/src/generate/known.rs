//! Known answers: what a model's logits are, written beside it when it is packed, and looked at before it is served.
//!
//! A worker whose processor, driver or build computes something else finds out before anybody is answered. The answers
//! are a digest, not a hash: some logits of a few prompts and the spread of all, because two right computations differ in
//! the last bits. How far they may differ is part of the device class, not of the file: whoever writes the file can't
//! loosen it, and the model's root hash pins the rest.
//!
//! A file has one row for each device class, precision of weights and precision of keys and values that a model is served by:
//! the first in its top level, others in `more`. A worker needs the row of what it computes on and in; another one is none.
//!
//! Each prompt goes the way of requests: a chunk that crosses blocks, then a single token behind it.

use super::generator::Generator;
use crate::decoder::{BLOCK, Piece};
use crate::error::EngineError;
use crate::files::Config;
use crate::kernels::KvPrecision;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The file's name in a model folder.
pub const KNOWN_ANSWERS: &str = "known-answers.json";
/// Tokens of the prompts.
const LENGTHS: [usize; 3] = [2, BLOCK + 3, 3 * BLOCK];
/// Logits that are noted of each prompt.
const NOTED: usize = 16;
/// Version of the file.
const SCHEMA: u32 = 1;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceClass {
    /// A processor: sums in single precision.
    Cpu,
    /// A GPU through CUDA: numbers as wide as the weights are multiplied, sums are in single precision.
    Cuda,
    /// The same through Vulkan; nobody is served so.
    Vulkan,
}

impl DeviceClass {
    /// Largest difference of a logit, measured by the root mean square of all.
    fn tolerance(self) -> f32 {
        match self {
            DeviceClass::Cpu => 1e-3,
            // Two drivers may add in another order, and what lies between layers is rounded to 8 bits of mantissa: a few
            // roundings of a 256th each. Not seen on a GPU.
            DeviceClass::Cuda | DeviceClass::Vulkan => 2e-2,
        }
    }

    /// As it stands in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            DeviceClass::Cpu => "cpu",
            DeviceClass::Cuda => "cuda",
            DeviceClass::Vulkan => "vulkan",
        }
    }
}

/// What a model's logits are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownAnswers {
    /// 1.
    pub schema: u32,
    /// Types of the weights, as [`super::GeneratorFacts::precision`].
    pub precision: String,
    /// What computed them.
    pub device: DeviceClass,
    /// In which precision keys and values were held; files of before there was a choice don't say it.
    #[serde(default = "single")]
    pub kv_precision: String,
    /// One a prompt.
    pub answers: Vec<KnownAnswer>,
    /// Other rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<MoreAnswers>,
}

/// The same of another device class or another precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoreAnswers {
    /// Types of the weights, as [`super::GeneratorFacts::precision`].
    pub precision: String,
    /// What computed them.
    pub device: DeviceClass,
    /// In which precision keys and values were held.
    #[serde(default = "single")]
    pub kv_precision: String,
    /// One a prompt.
    pub answers: Vec<KnownAnswer>,
}

fn single() -> String {
    KvPrecision::F32.as_str().into()
}

/// What a row is of.
#[derive(PartialEq)]
struct Of<'a> {
    precision: &'a str,
    device: DeviceClass,
    kv_precision: &'a str,
}

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Of { precision, device, kv_precision } = self;
        write!(f, "{precision} on {}, keys and values in {kv_precision}", device.as_str())
    }
}

impl MoreAnswers {
    fn of(&self) -> Of<'_> {
        let MoreAnswers { precision, device, kv_precision, .. } = self;
        Of { precision, device: *device, kv_precision }
    }
}

impl KnownAnswers {
    fn of(&self) -> Of<'_> {
        let KnownAnswers { precision, device, kv_precision, .. } = self;
        Of { precision, device: *device, kv_precision }
    }

    /// Rows, and what each is of.
    fn rows(&self) -> impl Iterator<Item = (Of<'_>, &[KnownAnswer])> {
        let more = self.more.iter().map(|row| (row.of(), row.answers.as_slice()));
        std::iter::once((self.of(), self.answers.as_slice())).chain(more)
    }

    /// These answers beside those of a file that is there: what they are of is replaced, other rows stay.
    pub fn beside(self, mut file: KnownAnswers) -> KnownAnswers {
        if self.of() == file.of() {
            file.answers = self.answers;
            return file;
        }
        file.more.retain(|row| row.of() != self.of());
        let KnownAnswers { precision, device, kv_precision, answers, .. } = self;
        file.more.push(MoreAnswers { precision, device, kv_precision, answers });
        file
    }
}

/// Logits behind one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownAnswer {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Root mean square of all logits.
    pub spread: f32,
    /// Token id and its logit.
    pub logits: Vec<(u32, f32)>,
}

impl Generator {
    /// Computes the known answers of this model on this device.
    ///
    /// # Errors
    /// Logits that are not finite, or whatever computing them finds.
    pub fn known_answers(&self) -> Result<KnownAnswers, EngineError> {
        let facts = self.facts();
        // Drawn once and for all; SplitMix64 would be no better than this for choosing rows.
        let mut state = 0x9e37_79b9_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % facts.vocabulary as u64) as u32
        };
        let mut answers = Vec::new();
        for length in LENGTHS.map(|length| length.min(facts.context - 1)) {
            let prompt: Vec<u32> = (0..length).map(|_| draw()).collect();
            let all = self.continued(&prompt)?;
            let square = all.iter().map(|logit| f64::from(*logit).powi(2)).sum::<f64>() / all.len() as f64;
            let spread = square.sqrt() as f32;
            if !spread.is_finite() {
                return Err(EngineError::Logits);
            }
            let noted = (0..NOTED).map(|_| draw());
            let logits = noted.map(|id| (id, all[id as usize])).collect();
            answers.push(KnownAnswer { prompt, spread, logits });
        }
        Ok(KnownAnswers {
            schema: SCHEMA,
            precision: facts.precision.clone(),
            device: self.class,
            kv_precision: facts.kv_precision.clone(),
            answers,
            more: vec![],
        })
    }

    /// Compares with the answers that lie beside the model.
    ///
    /// # Errors
    /// No such file, one of another model, and the first logit that differs by more than the device class allows.
    pub fn check_known_answers(&self, dir: &Path) -> Result<(), EngineError> {
        let file: Config<KnownAnswers> =
            Config::read(dir.join(KNOWN_ANSWERS), "what the model must compute")?;
        let ours = self.known_answers()?;
        let theirs = &file.value;
        if theirs.schema != SCHEMA {
            return Err(file.bad("schema", &theirs.schema.to_string(), SCHEMA.to_string()));
        }
        let Some((_, theirs)) = theirs.rows().find(|(of, _)| *of == ours.of()) else {
            let found = theirs.rows().map(|(of, _)| of.to_string()).collect::<Vec<_>>().join("; ");
            let wanted = format!("a row of {}; `cargo xtask answers` adds it", ours.of());
            return Err(file.bad("precision", &found, wanted));
        };
        if theirs.len() != ours.answers.len() {
            let found = theirs.len().to_string();
            return Err(file.bad("answers", &found, ours.answers.len().to_string()));
        }
        for (ours, theirs) in ours.answers.iter().zip(theirs) {
            let ids = |answer: &KnownAnswer| answer.logits.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            if ours.prompt != theirs.prompt || ids(ours) != ids(theirs) {
                return Err(file.bad(
                    "answers",
                    "other prompts",
                    "those of this model's vocabulary and context",
                ));
            }
            let allowed = self.class.tolerance() * ours.spread;
            for ((id, ours), (_, theirs)) in ours.logits.iter().zip(&theirs.logits) {
                let apart = (ours - theirs).abs();
                // Not a number is apart from everything.
                if apart.is_nan() || apart > allowed {
                    let field = format!("logit of token {id}");
                    return Err(file.bad(&field, &theirs.to_string(), format!("{ours} within {allowed}")));
                }
            }
        }
        Ok(())
    }

    /// Logits behind the last token: what is before it in one chunk, then it alone.
    fn continued(&self, prompt: &[u32]) -> Result<Vec<f32>, EngineError> {
        // Backwards, so that a mistake in the order of blocks shows.
        let blocks: Vec<u32> = (0..prompt.len().div_ceil(BLOCK) as u32).rev().collect();
        let mut runner = self.model.clone().runner(blocks.len());
        let (before, last) = prompt.split_at(prompt.len() - 1);
        if !before.is_empty() {
            let chunk = Piece { ids: before, start: 0, blocks: &blocks, logits: false, answer: false };
            runner.forward(&[chunk])?;
        }
        let start = before.len();
        runner.forward(&[Piece { ids: last, start, blocks: &blocks, logits: true, answer: true }])
    }
}
