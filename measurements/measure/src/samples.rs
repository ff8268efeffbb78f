//! Small well-formed inputs of every parser, for tests and as seeds for fuzzing. Not compiled into any guest.

pub use crate::firmware::samples::{firmware, tdx};
pub use crate::firmware::tdvf::samples::{td_shim, tdvf};
pub use crate::firmware::variables::samples::store;
pub use crate::gpt::samples::disk;
pub use crate::pe::samples::{kernel, pe};
pub use crate::tcg::samples::{ccel, log, log_with, tpm};
pub use crate::uki::samples::uki;
