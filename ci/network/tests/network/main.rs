//! The role play and its faults, with processes (see the library): who paid whom what is read off the chain in the end.
//!
//! The programs lie where cargo puts them: `cargo test --workspace` builds all of them.

mod faults;
mod matrix;
mod scripted;
mod whole;
mod wrongs;

pub(crate) use network::{guest, model, play, stage};
