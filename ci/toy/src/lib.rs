//! The toy: a language model of two million weights that the project trains on its own text in minutes.
//!
//! ```text
//! git archive COMMIT -> Corpus -> vocabulary -> Text -> train -> Network -> folder (Hugging Face) -> the engine, as any model
//!                          `-- held-out files --------------> measure: perplexity beside a bigram's
//! ```
//! It shows that the whole path works, on a model that may lie in the repository: it is no good, and says so.
//! Everything is seeded; the same processor gives the same bytes.
//!
//! Deliberately absent: more than one thread, dropout, mixed precision, starting again from a saved state.

pub mod bigram;
pub mod chat;
pub mod corpus;
pub mod folder;
pub mod measure;
pub mod network;
mod ops;
pub mod random;
pub mod say;
pub mod train;
pub mod vocabulary;
