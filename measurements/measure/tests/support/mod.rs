//! Where recorded evidence of real machines lies, for every test program of this crate.

use std::path::PathBuf;

/// The vectors' folder: `CHRYSALIS_VECTORS`, else `../shared/vectors` beside the repository; `None` is said loudly.
pub fn vectors() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!(
        "SKIPPED: no vectors at {}; set CHRYSALIS_VECTORS to check against real evidence",
        folder.display()
    );
    None
}
