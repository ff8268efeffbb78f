//! One model in one process, told by lines what to compute, saying what each took: what `cargo xtask bench` holds beside
//! other libraries, whose programs in `ci/reference/peers` speak the same lines.
//!
//! ```text
//! measure DIR THREADS CONTEXT [int8|bf16-rounded|cuda|vulkan] [kv-f16|kv-f32]
//!   --> {"ready": {"wall": s since the start, "cpu": s, "rss": bytes}, "versions": {..}}
//! stdin: prefill N | decode N | decode N at M | batch B N | embed TEXTS REPEATS | bandwidth BYTES
//! stdout: {"wall", "cpu", "count", "rss"}
//! stdin: device                                                                     stdout: {"weights", "token", "held", "taken"} in bytes
//! measure look cuda|vulkan --> {"device": "..", "bytes_per_s", "products_per_s"} | {"lacks": ".."}
//! ```
//! `count` is tokens, texts or bytes; `at M` is behind a prompt of M tokens. For measuring; it is in no image.

use engine::{
    ClientId, Device, Embedder, Event, Generator, Kind, KvPrecision, Limits, Options, Precision, Prompt,
    Request, Sampling, Scheduler, Sharing,
};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: measure DIR THREADS CONTEXT [int8|bf16-rounded|cuda|vulkan] [kv-f16|kv-f32] | measure look cuda|vulkan";
/// Most answers of a pass, and most prompt tokens.
const SEQUENCES: usize = 8;
const CHUNK: usize = 512;
/// The same of a GPU.
const GPU_SEQUENCES: usize = 32;
const GPU_CHUNK: usize = 2048;
/// Tokens of a prompt that is only there for what follows it.
const SHORT: usize = 16;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let began = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (dir, threads, context, words) = match arguments.as_slice() {
        ["look", word] => return look(device(word)?),
        [dir, threads, context, words @ ..] => (dir, threads, context, words),
        _ => return Err(USAGE.into()),
    };
    let mut options = Options { threads: threads.parse()?, ..Options::default() };
    for word in words {
        match *word {
            "int8" => options.precision = Precision::Int8,
            "bf16-rounded" => options.precision = Precision::Bf16Rounded,
            "kv-f16" => options.kv_precision = Some(KvPrecision::F16),
            "kv-f32" => options.kv_precision = Some(KvPrecision::F32),
            word => options.device = device(word)?,
        }
        // Mesa's processor that plays a GPU knows no bfloat16.
        if *word == "vulkan" {
            options.precision = Precision::F32;
        }
    }
    let mut model = Model::open(Path::new(dir), options, context.parse()?)?;
    let ready = serde_json::json!({
        "wall": began.elapsed().as_secs_f64(), "cpu": cpu(), "rss": resident()?,
    });
    println!("{}", serde_json::json!({ "ready": ready, "versions": {"engine": env!("CARGO_PKG_VERSION")} }));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["device"] {
            println!("{}", model.held()?);
            continue;
        }
        let taken = model.task(&words)?;
        println!(
            "{}",
            serde_json::json!({
                "wall": taken.wall, "cpu": taken.cpu, "count": taken.count, "rss": resident()?,
            })
        );
    }
    Ok(())
}

fn device(word: &str) -> Result<Device> {
    match word {
        "as stored" => Ok(Device::Processor),
        "cuda" => Ok(Device::Gpu),
        #[cfg(feature = "wgpu")]
        "vulkan" => Ok(Device::Vulkan),
        other => Err(format!("{other}: no such precision or device of this program").into()),
    }
}

/// What a GPU can do at best, or what lacks.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn look(device: Device) -> Result<()> {
    let name = match engine::gpu() {
        Ok(gpu) => format!("{}, {} GB, CUDA {}", gpu.name, gpu.memory_bytes / 1_000_000_000, gpu.cuda),
        Err(lacks) if device == Device::Gpu => {
            println!("{}", serde_json::json!({ "lacks": lacks.to_string() }));
            return Ok(());
        }
        Err(_) => "whatever Vulkan has".into(),
    };
    let best = engine::gpu_speed(device)?;
    let (bytes, products) = (best.bytes, best.products);
    println!("{}", serde_json::json!({ "device": name, "bytes_per_s": bytes, "products_per_s": products }));
    Ok(())
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn look(_: Device) -> Result<()> {
    println!("{}", serde_json::json!({ "lacks": engine::NoGpu::NotBuilt.to_string() }));
    Ok(())
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn on_device(device: Device) -> Result<(u64, u64)> {
    Ok(engine::gpu_memory(device)?)
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn on_device(_: Device) -> Result<(u64, u64)> {
    Err(engine::NoGpu::NotBuilt.to_string().into())
}

/// What a task took.
struct Taken {
    wall: f64,
    cpu: f64,
    count: usize,
}

/// Seconds of processor time of all threads of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Bytes of memory that are this process's own or mapped and there.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

fn timed(work: impl FnOnce() -> Result<usize>) -> Result<Taken> {
    let (began, before) = (Instant::now(), cpu());
    let count = work()?;
    Ok(Taken { wall: began.elapsed().as_secs_f64(), cpu: cpu() - before, count })
}

enum Model {
    Decoder { scheduler: Box<Scheduler>, generator: Arc<Generator>, drawn: u32, options: Options },
    Encoder { embedder: Embedder, threads: usize },
}

impl Model {
    fn open(dir: &Path, options: Options, context: usize) -> Result<Model> {
        let threads = options.threads;
        match engine::kind(dir)? {
            Kind::Embedder => Ok(Model::Encoder { embedder: Embedder::load_with(dir, threads)?, threads }),
            Kind::Generator => {
                let generator = Arc::new(Generator::open_with(dir, options)?);
                let (sequences, prefill_chunk) = match options.device {
                    Device::Processor => (SEQUENCES, CHUNK),
                    _ => (GPU_SEQUENCES, GPU_CHUNK),
                };
                let limits = Limits {
                    kv_bytes: context * generator.facts().cached_bytes,
                    sequences,
                    prefill_chunk,
                    sharing: Sharing::Request,
                    ..Limits::default()
                };
                let scheduler = Box::new(Scheduler::new(generator.clone(), limits)?);
                Ok(Model::Decoder { scheduler, generator, drawn: 1, options })
            }
        }
    }

    fn task(&mut self, words: &[&str]) -> Result<Taken> {
        let number = |word: &str| word.parse::<usize>();
        match words {
            ["prefill", tokens] => self.prefill(number(tokens)?),
            ["decode", tokens] => self.decode(1, number(tokens)?, SHORT),
            ["decode", tokens, "at", prompt] => self.decode(1, number(tokens)?, number(prompt)?),
            ["batch", answers, tokens] => self.decode(number(answers)?, number(tokens)?, SHORT),
            ["embed", texts, repeats] => self.embed(Path::new(texts), number(repeats)?),
            ["bandwidth", bytes] => bandwidth(number(bytes)?, self.threads()),
            _ => Err(format!("{words:?}: no such task").into()),
        }
    }

    fn threads(&self) -> usize {
        match self {
            Model::Decoder { options, .. } => options.threads.max(1),
            Model::Encoder { threads, .. } => (*threads).max(1),
        }
    }

    /// Bytes of weights, of a token's keys and values, and of what the device holds and took for all.
    fn held(&self) -> Result<serde_json::Value> {
        let Model::Decoder { generator, options, .. } = self else {
            return Err("this model continues no text".into());
        };
        let (held, taken) = on_device(options.device)?;
        let (weights, token) = (generator.weight_bytes(), generator.facts().cached_bytes);
        Ok(serde_json::json!({ "weights": weights, "token": token, "held": held, "taken": taken }))
    }

    /// Enters a request of `prompt` tokens that nobody had before, and at most `answer` tokens behind it.
    fn submit(&mut self, prompt: usize, answer: usize) -> Result<()> {
        let Model::Decoder { scheduler, generator, drawn, .. } = self else {
            return Err("this model continues no text".into());
        };
        let words = (generator.facts().vocabulary as u32).min(150_000);
        let ids = (0..prompt).map(|_| draw(drawn) % words).collect();
        let request = Request {
            sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
            max_tokens: Some(answer),
            ..Request::new(Prompt::Tokens(ids))
        };
        scheduler.submit(ClientId(0), generator.prepare(request, None)?)?;
        Ok(())
    }

    /// One pass, or all that are left; returns how many tokens the answers that ended had.
    fn step(&mut self, all: bool) -> Result<usize> {
        let Model::Decoder { scheduler, .. } = self else { return Ok(0) };
        let mut tokens = 0;
        loop {
            for event in scheduler.step() {
                match event {
                    Event::Finished { usage, .. } => tokens += usage.completion_tokens,
                    Event::Failed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
            if !all || scheduler.is_idle() {
                return Ok(tokens);
            }
        }
    }

    /// From a prompt to its first token.
    fn prefill(&mut self, prompt: usize) -> Result<Taken> {
        timed(|| {
            self.submit(prompt, 1)?;
            self.step(true)?;
            Ok(prompt)
        })
    }

    /// `tokens` tokens of each of several answers, their prompts not counted.
    fn decode(&mut self, answers: usize, tokens: usize, prompt: usize) -> Result<Taken> {
        for _ in 0..answers {
            self.submit(prompt, tokens + 1)?;
        }
        // The prompts go together in one pass where they are short, with the first token of each.
        for _ in 0..(answers * prompt).div_ceil(CHUNK) {
            self.step(false)?;
        }
        let taken = timed(|| Ok(self.step(true)? - answers))?;
        if taken.count != answers * tokens {
            return Err(format!("{} tokens came of {answers} times {tokens}", taken.count).into());
        }
        Ok(taken)
    }

    fn embed(&self, texts: &Path, repeats: usize) -> Result<Taken> {
        let Model::Encoder { embedder, .. } = self else { return Err("this model embeds nothing".into()) };
        let texts: Vec<String> = serde_json::from_slice(&std::fs::read(texts)?)?;
        timed(|| {
            for _ in 0..repeats {
                embedder.embed(&texts)?;
            }
            Ok(texts.len() * repeats)
        })
    }
}

fn draw(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 8
}

/// Reads that many bytes with all threads, each its own part, in order: as weights are read.
fn bandwidth(bytes: usize, threads: usize) -> Result<Taken> {
    let numbers = vec![1u64; bytes / 8];
    let part = numbers.len().div_ceil(threads);
    let mut total = 0u64;
    let taken = timed(|| {
        std::thread::scope(|scope| {
            let sums: Vec<_> =
                numbers.chunks(part).map(|part| scope.spawn(move || part.iter().sum::<u64>())).collect();
            total = sums.into_iter().map(|sum| sum.join().unwrap_or(0)).sum();
        });
        Ok(numbers.len() * 8)
    })?;
    if total != numbers.len() as u64 {
        return Err("a part of the memory was not read".into());
    }
    Ok(taken)
}
