//! Loads kernel modules from a folder, in the order that its file `order` states: one file name a line, dependencies
//! first. The initrd carries one such folder, the verified root another. The kernel checks each module's signature, but for the driver of a GPU image, which nobody signed
//! and which the verified root vouches for.

use crate::{VerityError, io};
use rustix::io::Errno;
use rustix::system::finit_module;
use std::fs::{self, File};
use std::path::Path;

/// `MODULE_INIT_COMPRESSED_FILE` of `include/uapi/linux/module.h`; the kernel decompresses.
const COMPRESSED: i32 = 4;
const REBUILD: &str = "rebuild the image from its recipe";

/// Loads every module named in `dir/order`. One that is loaded already, or that finds no hardware of its kind
/// (`ENODEV`), is no error: what needs it will say so.
pub fn load_all(dir: &Path) -> Result<(), VerityError> {
    load_each(dir, |_, _| true)
}

/// What became of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// It runs.
    Runs,
    /// It found no hardware of its kind (`ENODEV`) and is gone again.
    NoHardware,
}

/// As [`load_all`], as long as `go_on` says so of the module (by file name) that was just tried.
pub fn load_each(dir: &Path, mut go_on: impl FnMut(&str, Loaded) -> bool) -> Result<(), VerityError> {
    let order = dir.join("order");
    let text = fs::read_to_string(&order).map_err(io("read the module list", &order))?;
    for name in text.lines() {
        let loaded = load(dir, name)?;
        if !go_on(name, loaded) {
            break;
        }
    }
    Ok(())
}

fn load(dir: &Path, name: &str) -> Result<Loaded, VerityError> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(VerityError::Wrong {
            input: dir.join("order").display().to_string(),
            field: "line",
            expected: "the name of a file beside it".into(),
            found: format!("`{name}`"),
            next: REBUILD,
        });
    }
    let path = dir.join(name);
    let file = File::open(&path).map_err(io("open kernel module", &path))?;
    let flags = if name.ends_with(".ko") { 0 } else { COMPRESSED };
    match finit_module(&file, c"", flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(Loaded::Runs),
        Err(Errno::NODEV) => Ok(Loaded::NoHardware),
        Err(e) => Err(io("load kernel module", &path)(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(order: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("order"), order).unwrap();
        fs::write(dir.path().join("text.ko"), "not a module").unwrap();
        load_all(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_list_and_a_missing_module_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_all(dir.path()).unwrap_err().to_string().contains("order"));
        assert!(refusal("absent.ko.xz\n").contains("absent.ko.xz"));
    }

    #[test]
    fn a_file_that_is_no_module_is_refused() {
        assert!(refusal("text.ko\n").contains("load kernel module"));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for bad in ["/text.ko", "../text.ko", "a/text.ko", ".hidden.ko", "\n"] {
            assert!(refusal(bad).contains("expected the name of a file beside it"), "accepted {bad:?}");
        }
    }
}
