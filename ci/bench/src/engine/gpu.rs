//! Continuing texts on a GPU: random weights of Qwen3's shapes beside what the same device can do at best, measured in the same run,
//! and beside transformers where there is a torch with CUDA.
//!
//! ```text
//! measure look DEVICE ......... what lacks, or bytes and products a second          (guest/engine/examples/measure.rs)
//! measure FOLDER .. DEVICE .... decode, batch, prefill, device                      beside ci/reference/peers/decoder.py .. cuda
//! ```
//! Through Vulkan the same is done with a tiny model and without limits: it shows that this runs, and nothing about GPUs.

use super::process::{Program, Taken};
use super::random::{Folder, Sizes};
use super::{Clock, Pairs, failed};
use crate::report::{Limit, Number, Report, Unit};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tokens of a prompt that is only there for what follows it, as both programs have it.
const SHORT: usize = 16;

/// What is measured with.
pub struct Bench {
    /// Our program.
    pub measure: PathBuf,
    /// `cuda`, or `vulkan` for development.
    pub device: String,
    /// Names of shapes; all of the device's where there are none.
    pub shapes: Vec<String>,
    /// Where weights lie while they are measured.
    pub scratch: PathBuf,
    /// A Python with transformers and a torch with CUDA.
    pub python: PathBuf,
    /// Rounds of each row.
    pub rounds: usize,
}

/// A shape, what is asked of it, and the names of its rows.
struct Shape {
    name: &'static str,
    sizes: Sizes,
    device: &'static str,
    /// Tokens of an answer, answers of a batch, tokens of a prompt.
    tasks: [usize; 3],
    rows: Rows,
}

struct Rows {
    decode: &'static str,
    batch: &'static str,
    prefill: &'static str,
    memory: &'static str,
    /// Decode and batch beside transformers.
    peers: [&'static str; 2],
}

const SMALL: Sizes = Sizes {
    width: 1024,
    inner: 3072,
    layers: 28,
    heads: 16,
    kv_heads: 8,
    head: 128,
    vocabulary: 151_936,
    tied: true,
};

const SHAPES: [Shape; 3] = [
    Shape {
        name: "0.6b",
        sizes: SMALL,
        device: "cuda",
        tasks: [128, 32, 2048],
        rows: Rows {
            decode: "GPU decode 0.6b",
            batch: "GPU decode 0.6b, 32 answers",
            prefill: "GPU prefill 2048 0.6b",
            memory: "GPU memory 0.6b",
            peers: ["GPU decode 0.6b, transformers", "GPU decode 0.6b, 32 answers, transformers"],
        },
    },
    Shape {
        name: "8b",
        sizes: Sizes { width: 4096, inner: 12_288, layers: 36, heads: 32, tied: false, ..SMALL },
        device: "cuda",
        tasks: [128, 32, 2048],
        rows: Rows {
            decode: "GPU decode 8b",
            batch: "GPU decode 8b, 32 answers",
            prefill: "GPU prefill 2048 8b",
            memory: "GPU memory 8b",
            peers: ["GPU decode 8b, transformers", "GPU decode 8b, 32 answers, transformers"],
        },
    },
    Shape {
        name: "tiny",
        sizes: Sizes {
            width: 256,
            inner: 512,
            layers: 2,
            heads: 8,
            kv_heads: 2,
            head: 32,
            vocabulary: 512,
            tied: true,
        },
        device: "vulkan",
        tasks: [8, 12, 64],
        rows: Rows {
            decode: "Vulkan decode tiny",
            batch: "Vulkan decode tiny, 12 answers",
            prefill: "Vulkan prefill 64 tiny",
            memory: "Vulkan memory tiny",
            peers: ["", ""],
        },
    },
];

/// Most times the time at the measured bandwidth, for one answer and for many; most times the time at the measured products; most
/// times weights, keys and values; most times the time of transformers.
const ALONE: f64 = 1.0 / 0.5;
const TOGETHER: f64 = 1.0 / 0.6;
const PREFILL: f64 = 1.0 / 0.4;
const MEMORY: f64 = 1.15;
const PEER: f64 = 1.0 / 3.0;

/// What `measure look` says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Look {
    Lacks { lacks: String },
    Best(Best),
}

#[derive(Deserialize)]
struct Best {
    device: String,
    bytes_per_s: f64,
    products_per_s: f64,
}

/// What `device` says, in bytes.
#[derive(Deserialize)]
struct Held {
    weights: f64,
    /// Keys and values of one token.
    token: f64,
    taken: f64,
}

impl Bench {
    /// All rows of all shapes.
    ///
    /// # Errors
    /// No such device, and what lacks; too little room for weights.
    pub fn report(&self) -> Result<Report> {
        let shapes = self.chosen()?;
        let before = crate::machine::load();
        let best = self.look()?;
        let peer = self.peer();
        let mut numbers = Vec::new();
        for shape in shapes {
            eprintln!(
                "      {}: writing {:.1} GB of random weights",
                shape.name,
                shape.sizes.bytes() as f64 / 1e9
            );
            let folder = shape.sizes.write(&self.scratch, shape.name)?;
            numbers.extend(self.rows(shape, &folder, &best, peer.is_ok()));
        }
        let measured = if self.device == "cuda" { String::new() } else { "NOT A GPU, NO LIMITS: ".into() };
        let facts = vec![
            ("device", format!("{measured}{}", best.device)),
            (
                "at best",
                format!("{:.1} GB/s, {:.3} TFLOPS", best.bytes_per_s / 1e9, best.products_per_s / 1e12),
            ),
            ("transformers", peer.unwrap_or_else(|lacks| format!("not measured: {lacks:#}"))),
            ("CPU", crate::machine::processor_here()),
            ("load when it began and ended", format!("{before}, {}", crate::machine::load())),
        ];
        Ok(Report { numbers, facts })
    }

    fn chosen(&self) -> Result<Vec<&'static Shape>> {
        let of_device: Vec<&Shape> = SHAPES.iter().filter(|shape| shape.device == self.device).collect();
        let named = |name: &String| {
            let found = of_device.iter().copied().find(|shape| shape.name == name);
            let all = of_device.iter().map(|shape| shape.name).collect::<Vec<_>>().join(", ");
            found.with_context(|| format!("{name}: no shape for {}; expected {all}", self.device))
        };
        if self.shapes.is_empty() { Ok(of_device) } else { self.shapes.iter().map(named).collect() }
    }

    fn look(&self) -> Result<Best> {
        let program = self.measure.display();
        let out = Command::new(&self.measure).args(["look", &self.device]).output();
        let out = out.with_context(|| format!("{program}: does not start"))?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{program}: {}: {}", out.status, said.trim());
        match serde_json::from_slice(&out.stdout).with_context(|| format!("{program}: says no JSON"))? {
            Look::Lacks { lacks } => bail!("no GPU: {lacks}"),
            Look::Best(best) => Ok(best),
        }
    }

    /// The peer's versions, or why there is none.
    fn peer(&self) -> Result<String> {
        ensure!(self.device == "cuda", "it would compute on the processor");
        let script = "import torch, transformers\n\
                      assert torch.cuda.is_available(), 'torch without CUDA'\n\
                      print('transformers', transformers.__version__, 'torch', torch.__version__)";
        let python = self.python.display();
        let out = Command::new(&self.python).args(["-c", script]).output();
        let out = out.with_context(|| format!("{python}: does not start"))?;
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        ensure!(
            out.status.success(),
            "{python}: {last}; name a Python with transformers and a torch for CUDA with --python"
        );
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    fn rows(&self, shape: &Shape, folder: &Folder, best: &Best, peer: bool) -> Vec<Number> {
        let Rows { decode, batch, prefill, memory, peers } = &shape.rows;
        let rows = match self.ours(shape, folder) {
            Ok(mut ours) => {
                let held = ours.ask::<Held>("device");
                let mut rows = match held {
                    Ok(held) => self.beside_best(shape, &mut ours, &held, best),
                    Err(error) => vec![failed(decode, None, &error)],
                };
                if peer {
                    rows.extend(self.beside_transformers(shape, folder, &mut ours));
                }
                rows
            }
            Err(error) => [decode, batch, prefill, memory, &peers[0]]
                .iter()
                .filter(|name| !name.is_empty())
                .map(|name| failed(name, None, &error))
                .collect(),
        };
        if self.device == "cuda" { rows } else { rows.into_iter().map(Number::without_limit).collect() }
    }

    fn ours(&self, shape: &Shape, folder: &Folder) -> Result<Program> {
        let mut command = Command::new(&self.measure);
        command.arg(folder.path()).args(["1", &shape.room().to_string(), &self.device]);
        Program::start("the engine", &mut command)
    }

    /// Rows beside bandwidth, products and memory.
    fn beside_best(&self, shape: &Shape, ours: &mut Program, held: &Held, best: &Best) -> Vec<Number> {
        let Rows { decode, batch, prefill, memory, .. } = &shape.rows;
        let [tokens, answers, prompt] = shape.tasks;
        let mut passes = |name, answers: usize, limit| {
            let task = shape.task(answers);
            let row = self.times(ours, &task).map(|taken| {
                let bytes = held.weights + held.token * shape.positions(answers);
                let each = |taken: &Taken| Clock::Wall.each(taken) * answers as f64;
                let values: Vec<f64> = taken.iter().map(each).collect();
                Number::new(name, Unit::Milliseconds, &values)
                    .beside("its bytes at the measured bandwidth", &[bytes / best.bytes_per_s * 1e3])
                    .limit(Limit::TimesPeer(limit))
                    .covers(format!(
                        "a pass of `{task}` by wall clock: scheduler, sampler and all; bytes are weights, keys and values \
                         ({:.2} GB), bandwidth that of adding two buffers",
                        bytes / 1e9
                    ))
            });
            row.unwrap_or_else(|error| failed(name, Some(limit), &error))
        };
        let mut rows = vec![passes(decode, 1, ALONE), passes(batch, answers, TOGETHER)];
        let task = format!("prefill {prompt}");
        let row = self.times(ours, &task).map(|taken| {
            let values: Vec<f64> = taken.iter().map(|taken| taken.wall * 1e3).collect();
            let products = 2.0 * (shape.sizes.products() * prompt) as f64;
            Number::new(prefill, Unit::Milliseconds, &values)
                .beside("its products at the measured speed", &[products / best.products_per_s * 1e3])
                .limit(Limit::TimesPeer(PREFILL))
                .covers(format!(
                    "a prompt of {prompt} tokens to its first token; products with weights alone, attention and head left out, \
                     beside the same library's product of two large matrices"
                ))
        });
        rows.push(row.unwrap_or_else(|error| failed(prefill, Some(PREFILL), &error)));
        let taken = ours.ask::<Held>("device").map(|held| {
            let needed = held.weights + held.token * shape.room() as f64;
            Number::new(memory, Unit::Megabytes, &[held.taken / 1e6])
                .beside("weights, keys and values", &[needed / 1e6])
                .limit(Limit::TimesPeer(MEMORY))
                .covers(format!(
                    "memory that was taken from the device behind all of this, room for {} tokens; CUDA's own \
                     context is not counted, answers had up to {tokens} tokens",
                    shape.room()
                ))
        });
        rows.push(taken.unwrap_or_else(|error| failed(memory, Some(MEMORY), &error)));
        rows
    }

    fn beside_transformers(&self, shape: &Shape, folder: &Folder, ours: &mut Program) -> Vec<Number> {
        let script = crate::engine::scripts().map(|scripts| scripts.join("decoder.py"));
        let started = script.and_then(|script| self.transformers(&script, folder));
        let [alone, together] = shape.rows.peers;
        let mut peer = match started {
            Ok(peer) => peer,
            Err(error) => {
                return vec![failed(alone, Some(PEER), &error), failed(together, Some(PEER), &error)];
            }
        };
        let mut row = |name, answers| {
            let task = shape.task(answers);
            let pairs = (|| {
                peer.task(&task)?;
                let mut pairs = Pairs::default();
                for _ in 0..self.rounds {
                    pairs.ours.push(ours.task(&task)?);
                    pairs.peer.push(peer.task(&task)?);
                }
                anyhow::Ok(pairs)
            })();
            let what = format!("a token of `{task}`, both in bfloat16 on the same device");
            pairs
                .map(|pairs| pairs.number(name, "transformers", Clock::Wall, Some(PEER), &what))
                .unwrap_or_else(|error| failed(name, Some(PEER), &error))
        };
        vec![row(alone, 1), row(together, shape.tasks[1])]
    }

    fn transformers(&self, script: &Path, folder: &Folder) -> Result<Program> {
        let mut command = Command::new(&self.python);
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script).arg(folder.path()).args(["4", "0", "cuda"]);
        Program::start("decoder.py", &mut command)
    }

    /// A task several times, behind one that does not count: it compiles.
    fn times(&self, ours: &mut Program, task: &str) -> Result<Vec<Taken>> {
        ours.task(task)?;
        (0..self.rounds).map(|_| ours.task(task)).collect()
    }
}

impl Shape {
    /// Tokens of keys and values that there is room for: a batch of such prompts and answers.
    fn room(&self) -> usize {
        let [tokens, answers, prompt] = self.tasks;
        answers * (prompt + tokens).next_multiple_of(16)
    }

    fn task(&self, answers: usize) -> String {
        match (answers, self.tasks[0]) {
            (1, tokens) => format!("decode {tokens}"),
            (answers, tokens) => format!("batch {answers} {tokens}"),
        }
    }

    /// Positions whose keys and values a pass reads, in the middle of an answer, all answers together.
    fn positions(&self, answers: usize) -> f64 {
        answers as f64 * (SHORT as f64 + self.tasks[0] as f64 / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(device: &str, measure: &Path) -> Bench {
        Bench {
            measure: measure.into(),
            device: device.into(),
            shapes: vec![],
            scratch: std::env::temp_dir(),
            python: "/nonexistent/python".into(),
            rounds: 1,
        }
    }

    #[test]
    fn shapes_are_those_of_the_device() {
        let names =
            |bench: &Bench| bench.chosen().unwrap().iter().map(|shape| shape.name).collect::<Vec<_>>();
        assert_eq!(names(&bench("cuda", Path::new("x"))), ["0.6b", "8b"]);
        let mut vulkan = bench("vulkan", Path::new("x"));
        assert_eq!(names(&vulkan), ["tiny"]);
        vulkan.shapes = vec!["8b".into()];
        let error = vulkan.chosen().err().unwrap().to_string();
        assert!(error.contains("8b: no shape for vulkan; expected tiny"), "{error}");
    }

    #[test]
    fn what_lacks_is_one_line_and_nothing_is_written() {
        // Says whatever it is asked: the shell's own echo takes the place of our program.
        let bench = bench("cuda", Path::new("/nonexistent/measure"));
        let error = format!("{:#}", bench.report().err().unwrap());
        assert!(error.starts_with("/nonexistent/measure: does not start"), "{error}");
        let lacks: Look = serde_json::from_str(r#"{"lacks": "no driver; install one"}"#).unwrap();
        assert!(matches!(lacks, Look::Lacks { .. }));
    }

    #[test]
    fn a_peer_that_is_not_there_is_named() {
        let error = format!("{:#}", bench("cuda", Path::new("x")).peer().unwrap_err());
        assert!(error.contains("/nonexistent/python"), "{error}");
    }

    #[test]
    fn every_row_of_a_gpu_has_a_name_of_its_own() {
        let of = |shape: &Shape| {
            let Rows { decode, batch, prefill, memory, peers } = shape.rows;
            [decode, batch, prefill, memory, peers[0], peers[1]]
        };
        let mut names: Vec<&str> = SHAPES.iter().flat_map(of).filter(|name| !name.is_empty()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), count), (16, 16));
    }
}
