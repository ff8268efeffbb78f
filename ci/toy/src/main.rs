//! `toy`: gather the text, train the toy, measure it. `cargo xtask toy` runs this.

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokenizers::Tokenizer;
use toy::bigram::Bigram;
use toy::corpus::Corpus;
use toy::folder::{self, Facts};
use toy::measure::{self, Measured};
use toy::network::Network;
use toy::random::Random;
use toy::say;
use toy::train::{self, SEED, SHAPE, STEPS, Text};
use toy::vocabulary;

#[derive(Parser)]
#[command(about = "Trains the toy language model on the text of this repository")]
struct Args {
    #[command(subcommand)]
    task: Task,
    /// Where the text, the model's folder and the facts lie.
    #[arg(long, global = true, default_value = "ci/toy/data")]
    folder: PathBuf,
}

#[derive(Subcommand)]
enum Task {
    /// Take the text of a commit of the checkout in the current folder.
    Gather {
        /// The commit, 40 hexadecimal digits.
        commit: String,
    },
    /// Train from the text that was gathered, and write the model.
    Train {
        /// Steps; other numbers than the published one are for trying out.
        #[arg(long, default_value_t = STEPS)]
        steps: usize,
    },
    /// Perplexity of the written model on the held-out text, beside a bigram's.
    Measure,
    /// The likeliest answer of the written model, by the trainer's own network.
    Say {
        /// The message.
        message: String,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let corpus = args.folder.join("corpus.json.gz");
    match args.task {
        Task::Gather { commit } => {
            ensure!(commit.len() == 40, "expected a full commit of 40 digits, found {}", commit.len());
            std::fs::create_dir_all(&args.folder)?;
            let gathered = Corpus::gather(Path::new("."), &commit)?;
            let bytes: usize = gathered.documents.iter().map(|document| document.text.len()).sum();
            println!(
                "{} files, {bytes} bytes, {} held out",
                gathered.documents.len(),
                gathered.test().count()
            );
            gathered.write(&corpus)
        }
        Task::Train { steps } => train_all(&args.folder, &Corpus::read(&corpus)?, steps),
        Task::Say { message } => {
            let (network, tokenizer) = read(&args.folder)?;
            println!("the toy says: {}", say::answer(&network, &tokenizer, &message, 200)?);
            Ok(())
        }
        Task::Measure => {
            let (network, tokenizer) = read(&args.folder)?;
            let text = Text::new(&tokenizer, &Corpus::read(&corpus)?)?;
            report(measured(&network, &tokenizer, &text, &Corpus::read(&corpus)?)?);
            Ok(())
        }
    }
}

fn read(folder: &Path) -> Result<(Network, Tokenizer)> {
    folder::read(&folder.join("model"), Network::new(SHAPE, &mut Random::new(SEED)))
}

fn train_all(folder: &Path, corpus: &Corpus, steps: usize) -> Result<()> {
    let began = Instant::now();
    let texts: Vec<_> = corpus.train().map(|document| document.text.clone()).collect();
    let tokenizer = vocabulary::learn(SHAPE.vocabulary, &texts)?;
    let text = Text::new(&tokenizer, corpus)?;
    println!("{} tokens of text, vocabulary {}", text.stream().len(), tokenizer.get_vocab_size(true));
    let mut network = train::train(SHAPE, &text, steps, |step, loss| {
        println!("step {step:5} of {steps}  loss {loss:.3}  {:.0} s", began.elapsed().as_secs_f64());
    })?;
    let model = folder.join("model");
    folder::write(&model, &mut network, &tokenizer)?;
    let measured = measured(&network, &tokenizer, &text, corpus)?;
    report(measured);
    let (perplexity, bigram_perplexity) = measured.perplexities();
    let facts = Facts {
        commit: corpus.commit.clone(),
        seed: SEED,
        steps,
        weights: network.weights(),
        corpus_sha256: folder::sha256(&folder.join("corpus.json.gz"))?,
        tokenizer_sha256: folder::sha256(&model.join("tokenizer.json"))?,
        weights_sha256: folder::sha256(&model.join(folder::WEIGHTS))?,
        held_out_tokens: measured.tokens,
        perplexity,
        bigram_perplexity,
    };
    std::fs::write(folder.join("facts.json"), serde_json::to_string_pretty(&facts)? + "\n")?;
    Ok(())
}

fn measured(network: &Network, tokenizer: &Tokenizer, text: &Text<'_>, corpus: &Corpus) -> Result<Measured> {
    let bigram = Bigram::count(SHAPE.vocabulary, text.stream());
    let held_out = train::stream(tokenizer, corpus.test())?;
    Ok(measure::measure(&held_out, SHAPE.context, &bigram, |piece| measure::own(network, piece)))
}

fn report(measured: Measured) {
    let (model, bigram) = measured.perplexities();
    let tokens = measured.tokens;
    println!("held-out perplexity over {tokens} tokens: toy {model:.2}, bigram {bigram:.2}");
}
