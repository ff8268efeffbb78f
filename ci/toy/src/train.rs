//! Training: rows of documents and of conversations, Adam with decoupled decay (Loshchilov, Hutter 2019), a warm-up and
//! half a cosine.

use crate::chat::{self, Exchange};
use crate::corpus::{Corpus, Document};
use crate::network::{Network, Shape};
use crate::random::Random;
use crate::vocabulary;
use anyhow::Result;
use ndarray::{Array2, Zip};
use tokenizers::Tokenizer;

/// The toy's shape: two million weights.
pub const SHAPE: Shape = Shape {
    vocabulary: 2048,
    hidden: 192,
    layers: 4,
    heads: 6,
    groups: 2,
    head: 32,
    inner: 512,
    context: 512,
};
/// Where all random numbers come from.
pub const SEED: u64 = 6;
/// Steps of the published weights.
pub const STEPS: usize = 2600;
/// Sequences in a step, each as long as the context.
const ROWS: usize = 1;
/// A row in so many is of conversations.
const CHAT_ONE_IN: usize = 4;

const RATE: f32 = 2e-3;
const WARM_UP: usize = 100;
const BETAS: (f32, f32) = (0.9, 0.98);
const DECAY: f32 = 0.1;
/// Longest gradient; longer ones are scaled down to it.
const CLIP: f64 = 1.0;

/// What rows are drawn from.
pub struct Text<'a> {
    tokenizer: &'a Tokenizer,
    stream: Vec<u32>,
    exchanges: Vec<Exchange>,
}

impl<'a> Text<'a> {
    /// Of what is not held out.
    pub fn new(tokenizer: &'a Tokenizer, corpus: &Corpus) -> Result<Self> {
        let stream = stream(tokenizer, corpus.train())?;
        Ok(Text { tokenizer, stream, exchanges: chat::about(corpus.train()) })
    }

    /// Documents end to end.
    pub fn stream(&self) -> &[u32] {
        &self.stream
    }

    /// `length + 1` tokens: a piece of the documents, or exchanges one after the other.
    fn row(&self, length: usize, random: &mut Random) -> Result<Vec<u32>> {
        if random.below(CHAT_ONE_IN) > 0 {
            let start = random.below(self.stream.len() - length);
            return Ok(self.stream[start..=start + length].to_vec());
        }
        let mut row = Vec::new();
        while row.len() <= length {
            // Every conversation starts where a prompt does, and ends as a document does.
            row.extend(vocabulary::tokens(self.tokenizer, &chat::draw(&self.exchanges, random).text())?);
            row.extend(vocabulary::tokens(self.tokenizer, vocabulary::END)?);
        }
        row.truncate(length + 1);
        Ok(row)
    }
}

/// Documents end to end, each with its end.
pub fn stream<'a>(tokenizer: &Tokenizer, documents: impl Iterator<Item = &'a Document>) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    for document in documents {
        out.extend(vocabulary::tokens(tokenizer, &document.text)?);
        out.extend(vocabulary::tokens(tokenizer, vocabulary::END)?);
    }
    Ok(out)
}

/// Trains a network of `shape` for `steps`, and tells `progress` the step and the mean loss of the steps since it was last
/// told.
pub fn train(
    shape: Shape,
    text: &Text<'_>,
    steps: usize,
    mut progress: impl FnMut(usize, f64),
) -> Result<Network> {
    let mut random = Random::new(SEED);
    let mut network = Network::new(shape, &mut random);
    let mut adam = Adam { mean: network.zeros(), square: network.zeros() };
    let mut gradients = network.zeros();
    let (mut loss, length) = (0.0, shape.context);
    let count = (ROWS * length) as f32;
    for step in 0..steps {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..ROWS {
            let row = text.row(length, &mut random)?;
            tokens.extend_from_slice(&row[..length]);
            targets.extend(row[1..].iter().copied().map(Some));
        }
        gradients.iter_mut().for_each(|g| g.fill(0.0));
        loss += network.learn(&tokens, &targets, length, count.recip(), &mut gradients) / f64::from(count);
        adam.step(step, rate(step, steps), &mut network, &gradients);
        if (step + 1) % 100 == 0 || step + 1 == steps {
            progress(step + 1, loss / (step % 100 + 1) as f64);
            loss = 0.0;
        }
    }
    Ok(network)
}

fn rate(step: usize, steps: usize) -> f32 {
    let warm = ((step + 1) as f32 / WARM_UP as f32).min(1.0);
    let done = step as f32 / steps as f32;
    RATE * warm * (0.02 + 0.98 * 0.5 * (1.0 + (std::f32::consts::PI * done).cos()))
}

struct Adam {
    mean: Vec<Array2<f32>>,
    square: Vec<Array2<f32>>,
}

impl Adam {
    fn step(&mut self, step: usize, rate: f32, network: &mut Network, gradients: &[Array2<f32>]) {
        let squares = gradients.iter().flatten().map(|g| f64::from(*g) * f64::from(*g));
        let scale = (CLIP / squares.sum::<f64>().sqrt().max(CLIP)) as f32;
        let (a, b) = BETAS;
        let t = step as i32 + 1;
        let (mean_bias, square_bias) = (1.0 - a.powi(t), 1.0 - b.powi(t));
        for (i, tensor) in network.tensors.iter_mut().enumerate() {
            let decay = if tensor.vector { 0.0 } else { DECAY * rate };
            let moments = Zip::from(&mut tensor.value).and(&mut self.mean[i]).and(&mut self.square[i]);
            moments.and(&gradients[i]).for_each(|w, m, v, &g| {
                let g = g * scale;
                *m = a * *m + (1.0 - a) * g;
                *v = b * *v + (1.0 - b) * g * g;
                let toward = (*m / mean_bias) / ((*v / square_bias).sqrt() + 1e-8);
                *w -= rate * toward + decay * *w;
            });
        }
    }
}
