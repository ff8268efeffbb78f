//! Decoder language models: requests in, text out, many at a time.
//!
//! ```text
//! Request -- prepare: bounds, chat template, tokens --> Prepared -- submit --> waiting
//!   waiting -- room in memory, the client served least --> running -- step --> Event::Text ... Event::Finished
//! ```

mod blocks;
mod event;
mod generator;
mod known;
mod options;
mod python;
mod queue;
mod request;
mod sampler;
mod scheduler;
mod sequence;
mod template;
mod text;

pub use event::{ClientId, Event, FinishReason, RequestId, TokenLogprob, Usage};
pub use generator::{Generator, GeneratorFacts, Prepared, inspect_generator};
pub use known::{DeviceClass, KNOWN_ANSWERS, KnownAnswer, KnownAnswers, MoreAnswers};
pub use options::{Device, KvPrecision, Options, Precision};
pub use python::Time;
pub use request::{
    Chat, MAX_ALTERNATIVES, MAX_BIASES, MAX_CHOICES, MAX_PROMPT_BYTES, MAX_STOP_BYTES, MAX_STOPS, Prompt,
    Request, Sampling,
};
pub use scheduler::{Limits, Load, Scheduler, Sharing, complete};
