//! How every subcommand reads the files that it is given.

use anyhow::{Context, Result};
use std::path::Path;

/// The bytes of a file; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
