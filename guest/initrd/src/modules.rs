//! Loads the kernel modules that the archive carries, in the order that the archive states.
//!
//! `/modules/order` names one file of `/modules` a line, dependencies first. Compressed modules are decompressed by the
//! kernel (`MODULE_INIT_COMPRESSED_FILE`).

use rustix::io::Errno;
use rustix::system::finit_module;
use std::fs::{self, File};
use std::path::Path;

/// `MODULE_INIT_COMPRESSED_FILE` of `include/uapi/linux/module.h`.
const COMPRESSED: i32 = 4;

/// Loads every module named in `dir/order`.
pub(crate) fn load_all(dir: &Path) -> Result<(), String> {
    let order = dir.join("order");
    let text = fs::read_to_string(&order)
        .map_err(|e| format!("cannot read {}: {e}; rebuild the initrd", order.display()))?;
    text.lines().try_for_each(|name| load(dir, name))
}

fn load(dir: &Path, name: &str) -> Result<(), String> {
    let path = dir.join(name);
    let refused = |e: &dyn std::fmt::Display| {
        format!("cannot load kernel module {}: {e}; rebuild the initrd", path.display())
    };
    let file = File::open(&path).map_err(|e| refused(&e))?;
    let flags = if name.ends_with(".ko") { 0 } else { COMPRESSED };
    match finit_module(&file, c"", flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(refused(&e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_order_and_a_missing_module_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_all(dir.path()).unwrap_err().contains("order"));
        fs::write(dir.path().join("order"), "absent.ko.xz\n").unwrap();
        assert!(load_all(dir.path()).unwrap_err().contains("absent.ko.xz"));
    }

    #[test]
    fn a_file_that_is_no_module_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("order"), "text.ko\n").unwrap();
        fs::write(dir.path().join("text.ko"), "not a module").unwrap();
        assert!(load_all(dir.path()).unwrap_err().contains("text.ko"));
    }
}
