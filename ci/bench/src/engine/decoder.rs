//! Continuing texts: random weights of Qwen3-0.6B's shape, beside llama.cpp and transformers.

use super::process::{Program, Taken};
use super::{Clock, Pairs, Stage, asked, failed};
use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result};
use std::process::{Child, Command};

/// Tokens of keys and values that both have room for.
const CONTEXT: usize = 1024;
/// Bytes that the memory's speed is measured with: far more than caches hold.
const READ: usize = 1 << 30;
const DECODE: &str = "decode 16";
const PREFILL: &str = "prefill 512";
const BATCH: &str = "batch 8 8";

/// The same weights for both.
struct Weights {
    /// Folder of ours and options behind it.
    ours: (&'static str, &'static [&'static str]),
    gguf: &'static str,
    /// Rows with one thread and with two: decode, prefill, batch.
    rows: [[Option<Row>; 3]; 2],
}

/// Name and limit beside llama.cpp.
type Row = (&'static str, Option<f64>);

const fn slower(times: f64) -> Option<f64> {
    Some(1.0 / times)
}

const WEIGHTS: [Weights; 4] = [
    Weights {
        ours: ("decoder-f32", &[]),
        gguf: "decoder-f32.gguf",
        rows: [
            [Some(("decode f32, 1 thread", slower(0.95))), None, None],
            [Some(("decode f32, 2 threads", slower(0.95))), None, None],
        ],
    },
    Weights {
        ours: ("decoder-f16", &[]),
        gguf: "decoder-f16.gguf",
        rows: [
            [
                Some(("decode f16, 1 thread", slower(0.95))),
                Some(("prefill 512 f16, 1 thread", slower(1.0))),
                None,
            ],
            [
                Some(("decode f16, 2 threads", slower(0.95))),
                Some(("prefill 512 f16, 2 threads", slower(1.0))),
                None,
            ],
        ],
    },
    Weights {
        // As llama.cpp has it: activations of prompts are rounded to what the weights are.
        ours: ("decoder-bf16", &["bf16-rounded"]),
        gguf: "decoder-bf16.gguf",
        rows: [
            [
                Some(("decode bf16, 1 thread", slower(0.95))),
                Some(("prefill 512 bf16, 1 thread", slower(1.0))),
                None,
            ],
            [
                Some(("decode bf16, 2 threads", slower(0.95))),
                Some(("prefill 512 bf16, 2 threads", slower(1.0))),
                None,
            ],
        ],
    },
    Weights {
        ours: ("decoder-int8", &[]),
        gguf: "decoder-q8_0.gguf",
        rows: [
            [
                Some(("decode int8, 1 thread", slower(0.95))),
                Some(("prefill 512 int8, 1 thread", slower(1.0))),
                Some(("batch 8 int8, 1 thread", slower(1.2))),
            ],
            [
                Some(("decode int8, 2 threads", slower(1.2))),
                Some(("prefill 512 int8, 2 threads", slower(1.0))),
                Some(("batch 8 int8, 2 threads", slower(1.2))),
            ],
        ],
    },
];

/// All rows that were asked for.
pub fn measure(stage: &mut Stage, wanted: &[String]) -> Vec<Number> {
    let mut numbers = Vec::new();
    for weights in &WEIGHTS {
        for (threads, rows) in (1..).zip(&weights.rows) {
            numbers.extend(beside_llama(stage, wanted, weights, threads, rows));
        }
    }
    numbers.extend(beside_transformers(stage, wanted));
    numbers.extend(degradation(stage, wanted));
    numbers
}

/// Rows of some weights with some threads, from one pair of processes; memory and loading with two threads.
fn beside_llama(
    stage: &mut Stage,
    wanted: &[String],
    weights: &Weights,
    threads: usize,
    rows: &[Option<Row>; 3],
) -> Vec<Number> {
    let tasks = [DECODE, PREFILL, BATCH];
    let rows = rows.iter().zip(tasks).filter_map(|(row, task)| row.map(|(name, limit)| (name, limit, task)));
    let rows: Vec<_> = rows.filter(|(name, ..)| asked(wanted, name)).collect();
    let resident = MEMORY.iter().find(|memory| memory.gguf == weights.gguf && threads == 2);
    let resident = resident.filter(|memory| asked(wanted, memory.name) || asked(wanted, memory.load));
    if rows.is_empty() && resident.is_none() {
        return vec![];
    }
    let names = rows.iter().map(|(name, limit, _)| (*name, *limit));
    let names: Vec<_> = names.chain(resident.map(|memory| (memory.name, Some(1.05)))).collect();
    let started = pair(stage, weights, threads);
    let (mut ours, mut peer) = match started {
        Ok(pair) => pair,
        Err(error) => return names.iter().map(|(name, limit)| failed(name, *limit, &error)).collect(),
    };
    let mut numbers = Vec::new();
    for (name, limit, task) in rows {
        let pairs = stage.turns(&mut ours, &mut peer, task);
        let number = pairs.map(|pairs| {
            let what = format!("a token of `{task}`, {CONTEXT} tokens of room");
            pairs.number(name, "llama.cpp", Clock::of_threads(threads), limit, &what)
        });
        numbers.push(number.unwrap_or_else(|error| failed(name, limit, &error)));
        if task == DECODE {
            numbers.extend(roofline(stage, &mut ours, weights, threads));
        }
    }
    if let Some(memory) = resident {
        let taken = held(memory, &mut ours, &mut peer);
        numbers.push(taken.unwrap_or_else(|error| failed(memory.name, Some(1.05), &error)));
        numbers.push(loading(memory, &ours, &peer));
    }
    numbers
}

/// Both, ready.
fn pair(stage: &mut Stage, weights: &Weights, threads: usize) -> Result<(Program, Program)> {
    let (folder, options) = weights.ours;
    let (folder, gguf) = (stage.path(folder), stage.path(weights.gguf));
    let peer = stage.peer("llama.py", &gguf, threads, &CONTEXT.to_string())?;
    Ok((stage.ours(&folder, threads, CONTEXT, options)?, peer))
}

/// Weights whose memory and loading are rows.
struct Memory {
    gguf: &'static str,
    name: &'static str,
    load: &'static str,
}

const MEMORY: [Memory; 2] = [
    Memory { gguf: "decoder-f16.gguf", name: "memory f16", load: "load f16" },
    Memory { gguf: "decoder-q8_0.gguf", name: "memory int8", load: "load int8" },
];

/// Resident memory of both behind a prompt and an answer.
fn held(memory: &Memory, ours: &mut Program, peer: &mut Program) -> Result<Number> {
    let megabytes = |taken: Taken| taken.rss / 1e6;
    let values = [ours.task(PREFILL)?, peer.task(PREFILL)?].map(megabytes);
    Ok(Number::new(memory.name, Unit::Megabytes, &values[..1])
        .beside("llama.cpp", &values[1..])
        .limit(Limit::TimesPeer(1.05))
        .covers(format!("resident memory behind a prompt of 512, {CONTEXT} tokens of room, 2 threads")))
}

/// Load to ready, in processor time: both read from memory what a run before has brought there.
fn loading(memory: &Memory, ours: &Program, peer: &Program) -> Number {
    let (wall, walls) = (ours.ready.wall, peer.ready.wall);
    Number::new(memory.load, Unit::Milliseconds, &[ours.ready.cpu * 1e3])
        .beside("llama.cpp", &[peer.ready.cpu * 1e3])
        .limit(Limit::TimesPeer(1.2))
        .covers(format!(
            "processor time from the first line of the program until it is ready, files cached; wall clock {wall:.1} s \
             where the peer has {walls:.1} s"
        ))
}

/// A token beside the time in which memory gives all weights, measured right behind it.
fn roofline(stage: &Stage, ours: &mut Program, weights: &Weights, threads: usize) -> Option<Number> {
    let name = ROOFLINES.iter().find(|(gguf, of, _)| *gguf == weights.gguf && *of == threads)?.2;
    let mut measured = || -> Result<Number> {
        let gguf = stage.path(weights.gguf);
        let bytes = std::fs::metadata(&gguf).with_context(|| format!("{}: not there", gguf.display()))?.len();
        let (mut tokens, mut reads) = (Vec::new(), Vec::new());
        for _ in 0..stage.rounds {
            tokens.push(Clock::Wall.each(&ours.task(DECODE)?));
            let read = ours.task(&format!("bandwidth {READ}"))?;
            reads.push(bytes as f64 * Clock::Wall.each(&read));
        }
        let rate = bytes as f64 / Number::median(&reads) / 1e6;
        Ok(Number::new(name, Unit::Milliseconds, &tokens).beside("reading the weights", &reads).covers(format!(
            "a token by wall clock beside reading as many bytes as there are weights ({rate:.1} GB/s, {threads} threads)"
        )))
    };
    Some(measured().unwrap_or_else(|error| failed(name, None, &error)))
}

const ROOFLINES: [(&str, usize, &str); 4] = [
    ("decoder-f16.gguf", 1, "bandwidth f16, 1 thread"),
    ("decoder-f16.gguf", 2, "bandwidth f16, 2 threads"),
    ("decoder-q8_0.gguf", 1, "bandwidth int8, 1 thread"),
    ("decoder-q8_0.gguf", 2, "bandwidth int8, 2 threads"),
];

/// Rows beside transformers, in single precision as it computes: name, task, threads, limit.
const TRANSFORMERS: [(&str, &str, usize, f64); 2] =
    [("batch 8 f32, 2 threads", BATCH, 2, 3.0), ("prefill 512 f32, 2 threads", PREFILL, 2, 1.0)];

fn beside_transformers(stage: &mut Stage, wanted: &[String]) -> Vec<Number> {
    let rows = TRANSFORMERS.iter().filter(|(name, ..)| asked(wanted, name));
    let taken = |&(name, task, threads, times): &(&'static str, &str, usize, f64)| {
        let folder = stage.path("decoder-f32");
        let mut measured = || -> Result<Number> {
            let mut peer = stage.peer("decoder.py", &folder, threads, &CONTEXT.to_string())?;
            let mut ours = stage.ours(&folder, threads, CONTEXT, &[])?;
            let pairs = stage.turns(&mut ours, &mut peer, task)?;
            let (limit, what) = (slower(times), format!("a token of `{task}`"));
            Ok(pairs.number(name, "transformers", Clock::of_threads(threads), limit, &what))
        };
        measured().unwrap_or_else(|error| failed(name, slower(times), &error))
    };
    rows.map(taken).collect()
}

/// A process that takes one core, until it is dropped.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Decoding with two threads while another process takes one core, beside itself undisturbed; and the same of the peer.
fn degradation(stage: &mut Stage, wanted: &[String]) -> Vec<Number> {
    let names = ["decode f16 with one core taken", "llama.cpp f16 with one core taken"];
    if !asked(wanted, names[0]) {
        return vec![];
    }
    let mut measured = || -> Result<Vec<Number>> {
        let (mut ours, mut peer) = pair(stage, &WEIGHTS[1], 2)?;
        let alone = stage.turns(&mut ours, &mut peer, DECODE)?;
        let _busy = Busy(
            Command::new("python3").args(["-c", "while True: pass"]).spawn().context("python3: no start")?,
        );
        let shared = stage.turns(&mut ours, &mut peer, DECODE)?;
        let what = "a token with 2 threads while a third process computes, beside the same without it";
        let row = |name, ours: Vec<Taken>, peer: Vec<Taken>| {
            Pairs { ours, peer }.number(name, "undisturbed", Clock::Wall, None, what)
        };
        Ok(vec![row(names[0], shared.ours, alone.ours), row(names[1], shared.peer, alone.peer)])
    };
    measured().unwrap_or_else(|error| vec![failed(names[0], None, &error)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let rows = WEIGHTS.iter().flat_map(|weights| weights.rows.iter().flatten().flatten());
        let mut names: Vec<&str> = rows.map(|(name, _)| *name).collect();
        names.extend(MEMORY.iter().flat_map(|memory| [memory.name, memory.load]));
        names.extend(TRANSFORMERS.iter().map(|row| row.0));
        names.extend(ROOFLINES.iter().map(|row| row.2));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
