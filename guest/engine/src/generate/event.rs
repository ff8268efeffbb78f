//! What a scheduler tells about its requests.

use crate::error::EngineError;

/// Names one request of a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Whose a request is, as the caller numbers them: what was computed for a prompt is shared within a client's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Something that happened in a step.
#[derive(Debug)]
pub enum Event {
    /// A request has its memory and begins to run; before anything else that happens to it.
    Started {
        /// Which.
        id: RequestId,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Those of them whose keys and values were there already.
        cached_tokens: usize,
    },
    /// A continuation grew.
    Text {
        /// Whose.
        id: RequestId,
        /// Which of its choices, from 0.
        choice: usize,
        /// Whole characters; never a part of a stop sequence or of a special token. Empty only beside `tokens`.
        text: String,
        /// Tokens that this choice has taken so far, as [`Usage`] counts them.
        completion_tokens: usize,
        /// Those of them for the model itself.
        reasoning_tokens: usize,
        /// One entry a token since the last event, where log-probabilities were asked for.
        tokens: Vec<TokenLogprob>,
    },
    /// A continuation ended.
    Finished {
        /// Whose.
        id: RequestId,
        /// Which of its choices, from 0.
        choice: usize,
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// A request broke off with all its choices; no other request is touched.
    Failed {
        /// Which.
        id: RequestId,
        /// Why, and whose fault it is.
        error: EngineError,
    },
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop sequence did.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
}

/// Tokens that one continuation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were there already.
    pub cached_tokens: usize,
    /// Tokens of the continuation, the one that ended it included.
    pub completion_tokens: usize,
    /// Those of them between `<think>` and `</think>`, where the vocabulary has these tokens.
    pub reasoning_tokens: usize,
}

/// A token of a continuation and how likely it was, before sampling changed anything.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Its id.
    pub id: u32,
    /// Its bytes; not always whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at this place, likeliest first: id, bytes, logarithm.
    pub top: Vec<(u32, Vec<u8>, f32)>,
}
