//! How fast a worker is, from what was measured of it: means that weigh the newest most.
//!
//! ```text
//! time of a request = first byte + written tokens * time for a token          (embeddings: read tokens * time for one)
//! ```

/// Weight of the newest measurement.
const NEW: f64 = 0.2;
/// Before anything was measured of anybody, in milliseconds.
const FIRST: f64 = 1_000.0;
const TOKEN: f64 = 50.0;
/// Tokens that are expected of a completion where none was seen.
const TOKENS: f64 = 256.0;

/// Means in milliseconds; none before the first measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speed {
    first: Option<f64>,
    token: Option<f64>,
    /// Tokens of an answer.
    written: Option<f64>,
    request: Option<f64>,
}

fn mix(mean: &mut Option<f64>, new: f64) {
    *mean = Some(mean.map_or(new, |old| old + NEW * (new - old)));
}

impl Speed {
    /// Takes one request's times.
    pub fn learn(&mut self, first_ms: u64, total_ms: u64, read: u32, written: u32) {
        let (first, total) = (first_ms as f64, total_ms.max(first_ms) as f64);
        mix(&mut self.request, total);
        if written > 1 {
            mix(&mut self.first, first);
            mix(&mut self.token, (total - first) / f64::from(written - 1));
            mix(&mut self.written, f64::from(written));
        } else {
            // Nothing was streamed: all of the time is reading.
            mix(&mut self.first, total);
            if read > 0 {
                mix(&mut self.token, total / f64::from(read));
            }
        }
    }

    /// Whether there is nothing that others' means would have to stand in for.
    pub fn is_whole(&self) -> bool {
        self.first.is_some() && self.token.is_some() && self.written.is_some() && self.request.is_some()
    }

    /// Its own means, and `usual` ones where it has none.
    pub fn or(&self, usual: &Speed) -> Speed {
        Speed {
            first: self.first.or(usual.first),
            token: self.token.or(usual.token),
            written: self.written.or(usual.written),
            request: self.request.or(usual.request),
        }
    }

    /// The mean of several.
    pub fn mean<'a>(all: impl Iterator<Item = &'a Speed>) -> Speed {
        let all: Vec<&Speed> = all.collect();
        let mean = |field: fn(&Speed) -> Option<f64>| {
            let known: Vec<f64> = all.iter().filter_map(|speed| field(speed)).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        Speed {
            first: mean(|s| s.first),
            token: mean(|s| s.token),
            written: mean(|s| s.written),
            request: mean(|s| s.request),
        }
    }

    /// Milliseconds for a request that may write `completion` tokens.
    pub fn predict(&self, _prompt: u32, completion: u32) -> u64 {
        let first = self.first.unwrap_or(FIRST);
        let expected = self.written.unwrap_or(TOKENS).min(f64::from(completion));
        (first + expected * self.token.unwrap_or(TOKEN)) as u64
    }

    /// Milliseconds of a whole request.
    pub fn request_ms(&self) -> u64 {
        self.request.map_or(FIRST as u64, |ms| ms as u64).max(1)
    }

    /// Milliseconds to the first byte.
    pub fn first_ms(&self) -> Option<u32> {
        self.first.map(|ms| ms.ceil() as u32)
    }

    /// Milliseconds for a token.
    pub fn token_ms(&self) -> Option<u32> {
        self.token.map(|ms| ms.ceil() as u32)
    }

    /// Tokens a second of one request.
    pub fn tokens_per_s(&self) -> Option<f64> {
        self.token.filter(|ms| *ms > 0.0).map(|ms| 1000.0 / ms)
    }
}
