//! From logits to a token.
//!
//! ```text
//! logits -> bias -> repetition, presence, frequency penalties -> / temperature -> top-k -> top-p -> min-p -> draw
//! ```
//! Order and meaning are those of transformers' logits processors and OpenAI's penalties. Draws come from a counter and
//! the seed alone: a request's tokens depend on nothing that other requests do.
//!
//! Source: transformers 5, `generation/logits_process.py`; OpenAI API reference, "frequency_penalty"; SplitMix64, Steele et
//! al. 2014.

use super::request::Sampling;
use std::collections::HashMap;

/// Settings with nothing left open.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: usize,
    frequency: f32,
    presence: f32,
    repetition: f32,
    bias: Vec<(u32, f32)>,
    seed: u64,
}

impl Settings {
    /// The request's wishes, then the folder's, then OpenAI's.
    pub fn new(wanted: &Sampling, folder: &Sampling) -> Self {
        let float = |of: fn(&Sampling) -> Option<f32>, or: f32| of(wanted).or(of(folder)).unwrap_or(or);
        Settings {
            temperature: float(|s| s.temperature, 1.0),
            top_p: float(|s| s.top_p, 1.0),
            min_p: float(|s| s.min_p, 0.0),
            top_k: wanted.top_k.or(folder.top_k).unwrap_or(0),
            frequency: float(|s| s.frequency_penalty, 0.0),
            presence: float(|s| s.presence_penalty, 0.0),
            repetition: float(|s| s.repetition_penalty, 1.0),
            bias: wanted.logit_bias.clone(),
            seed: wanted.seed.unwrap_or(0),
        }
    }
}

/// One continuation's choice of tokens.
pub(crate) struct Sampler {
    settings: Settings,
    state: u64,
    /// How often the continuation holds a token; 0 for tokens of the prompt alone. Kept only where a penalty reads it.
    counts: HashMap<u32, u32>,
}

impl Sampler {
    pub fn new(settings: &Settings, prompt: &[u32], choice: usize) -> Self {
        let mut counts = HashMap::new();
        if settings.repetition != 1.0 {
            counts.extend(prompt.iter().map(|id| (*id, 0)));
        }
        let state = mix(settings.seed ^ mix(choice as u64));
        Sampler { settings: settings.clone(), state, counts }
    }

    /// Chooses a token. `logits` are changed.
    pub fn choose(&mut self, logits: &mut [f32]) -> u32 {
        self.adjust(logits);
        let id = if self.settings.temperature == 0.0 { greatest(logits) } else { self.draw(logits) };
        if self.settings.repetition != 1.0 || self.settings.presence != 0.0 || self.settings.frequency != 0.0
        {
            *self.counts.entry(id).or_insert(0) += 1;
        }
        id
    }

    fn adjust(&self, logits: &mut [f32]) {
        for (id, bias) in &self.settings.bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        for (id, count) in &self.counts {
            let Some(logit) = logits.get_mut(*id as usize) else { continue };
            let repetition = self.settings.repetition;
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if *count > 0 {
                *logit -= self.settings.presence + self.settings.frequency * *count as f32;
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let kept = self.kept(logits);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut left = self.uniform() * total;
        for (id, weight) in &kept {
            left -= weight;
            if left < 0.0 {
                return *id;
            }
        }
        kept.last().map_or(0, |(id, _)| *id)
    }

    /// Tokens that may be drawn with their weights, likeliest first where the order matters.
    fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let settings = &self.settings;
        let most = f64::from(logits[greatest(logits) as usize]);
        let weight = |logit: f32| ((f64::from(logit) - most) / f64::from(settings.temperature)).exp();
        let all = logits.iter().enumerate().map(|(id, logit)| (id as u32, weight(*logit)));
        let mut kept: Vec<(u32, f64)> = all.filter(|(_, w)| *w > 0.0).collect();
        let by_weight = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if settings.top_k > 0 && settings.top_k < kept.len() {
            kept.select_nth_unstable_by(settings.top_k - 1, by_weight);
            kept.truncate(settings.top_k);
        }
        if settings.top_p < 1.0 {
            kept.sort_unstable_by(by_weight);
            let total: f64 = kept.iter().map(|(_, w)| w).sum();
            let mut held = 0.0;
            let enough = kept.iter().position(|(_, w)| {
                held += w;
                held >= f64::from(settings.top_p) * total
            });
            kept.truncate(enough.map_or(kept.len(), |last| last + 1));
        }
        // The likeliest has weight 1, and min-p is measured by it.
        kept.retain(|(_, w)| *w >= f64::from(settings.min_p));
        kept
    }

    /// 0 to 1, without 1.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.state) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first of the greatest.
pub(crate) fn greatest(logits: &[f32]) -> u32 {
    let (chunks, rest) = logits.as_chunks::<16>();
    // Which one it is, is looked for once: a vocabulary is long.
    let mut most = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        most.iter_mut().zip(chunk).for_each(|(most, x)| *most = if *x > *most { *x } else { *most });
    }
    let most = most.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    logits.iter().position(|logit| *logit == most).unwrap_or(0) as u32
}

/// Log-probabilities of a chosen token and of the likeliest ones.
pub(crate) fn logprobs(logits: &[f32], chosen: u32, alternatives: usize) -> (f32, Vec<(u32, f32)>) {
    let most = f64::from(logits[greatest(logits) as usize]);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum();
    let of = |id: u32| (f64::from(logits[id as usize]) - most - sum.ln()) as f32;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = alternatives.min(ids.len());
    if count > 0 && count < ids.len() {
        ids.select_nth_unstable_by(count - 1, order);
    }
    ids.truncate(count);
    ids.sort_unstable_by(order);
    (of(chosen), ids.into_iter().map(|id| (id, of(id))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut Sampling)) -> Settings {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        Settings::new(&sampling, &Sampling::default())
    }

    fn drawn(settings: &Settings, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        let mut sampler = Sampler::new(settings, &[], 0);
        for _ in 0..draws {
            counts[sampler.choose(&mut logits.to_vec()) as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let logits = [0.7f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let counts = drawn(&settings(|s| s.seed = Some(5)), &logits, 20_000);
        for (count, share) in counts.iter().zip([0.7, 0.2, 0.1]) {
            assert!((*count as f64 / 20_000.0 - share).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn cuts_keep_what_they_say() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let never = |change: fn(&mut Sampling), from: usize| {
            let counts = drawn(&settings(change), &logits, 2000);
            assert!(counts[..from].iter().all(|count| *count > 0), "{counts:?}");
            assert!(counts[from..].iter().all(|count| *count == 0), "{counts:?}");
        };
        never(|s| s.top_k = Some(2), 2);
        never(|s| s.top_p = Some(0.79), 2);
        never(|s| s.top_p = Some(0.81), 3);
        never(|s| s.min_p = Some(0.29), 3);
        never(|s| s.temperature = Some(0.0), 1);
        never(|s| s.top_p = Some(1e-6), 1);
        never(|_| (), 4);
    }

    #[test]
    fn equal_seeds_give_equal_tokens_and_choices_differ() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.1).collect();
        let run = |seed: u64, choice: usize| {
            let mut sampler = Sampler::new(&settings(|s| s.seed = Some(seed)), &[], choice);
            (0..32).map(|_| sampler.choose(&mut logits.clone())).collect::<Vec<_>>()
        };
        assert_eq!(run(9, 0), run(9, 0));
        assert_ne!(run(9, 0), run(9, 1));
        assert_ne!(run(9, 0), run(10, 0));
    }

    #[test]
    fn penalties_push_away_what_was_said() {
        let choose = |change: fn(&mut Sampling), prompt: &[u32]| {
            let mut sampler = Sampler::new(&settings(change), prompt, 0);
            (0..2).map(|_| sampler.choose(&mut [1.0, 0.9, 0.0])).collect::<Vec<_>>()
        };
        assert_eq!(choose(|s| s.temperature = Some(0.0), &[0]), [0, 0]);
        let presence = |s: &mut Sampling| (s.temperature, s.presence_penalty) = (Some(0.0), Some(0.2));
        assert_eq!(choose(presence, &[0]), [0, 1]);
        let repetition = |s: &mut Sampling| (s.temperature, s.repetition_penalty) = (Some(0.0), Some(1.2));
        assert_eq!(choose(repetition, &[0]), [1, 0]);
        let bias = |s: &mut Sampling| (s.temperature, s.logit_bias) = (Some(0.0), vec![(2, 5.0), (99, 1.0)]);
        assert_eq!(choose(bias, &[]), [2, 2]);
    }

    #[test]
    fn logprobs_are_of_a_softmax() {
        let (chosen, top) = logprobs(&[1.0, 2.0, 2.0, -1e30], 0, 3);
        let sum = 1f64.exp() + 2.0 * 2f64.exp();
        assert!((f64::from(chosen) - (1.0 - sum.ln())).abs() < 1e-6);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(logprobs(&[0.0], 0, 20), (0.0, vec![(0, 0.0)]));
    }
}
