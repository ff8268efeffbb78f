//! Loads the kernel modules that the initrd did not need, from the verified root.
//!
//! `/usr/lib/chrysalis/modules.load` names one file a line, dependencies first, below the running kernel's module
//! folder and without compression suffix. A leading `-` marks a driver that may refuse a machine without its hardware
//! (`ENODEV`); everything else must load. `#` starts a comment.

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::system::{finit_module, uname};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// `MODULE_INIT_COMPRESSED_FILE` of `include/uapi/linux/module.h`.
const COMPRESSED: i32 = 4;
const SUFFIXES: [(&str, i32); 3] = [("", 0), (".xz", COMPRESSED), (".zst", COMPRESSED)];

/// Where lists, modules and loaded modules are; another place in tests.
pub(crate) struct Places {
    list: PathBuf,
    modules: PathBuf,
    loaded: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        let release = uname().release().to_string_lossy().into_owned();
        Places {
            list: "/usr/lib/chrysalis/modules.load".into(),
            modules: Path::new("/usr/lib/modules").join(release),
            loaded: "/sys/module".into(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    path: &'a str,
    hardware: bool,
}

/// Loads what is listed and not yet loaded.
pub(crate) fn load_all(places: &Places) -> Result<()> {
    let text = fs::read_to_string(&places.list).with_context(|| places.list.display().to_string())?;
    for wanted in parse(&text).with_context(|| places.list.display().to_string())? {
        if !is_loaded(&places.loaded, wanted.path) {
            load(&places.modules, &wanted)?;
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Wanted<'_>>> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
    lines
        .zip(1..)
        .filter(|(line, _)| !line.is_empty())
        .map(|(line, number)| {
            let (path, hardware) = line.strip_prefix('-').map_or((line, false), |path| (path, true));
            let plain = path.ends_with(".ko") && !path.starts_with('/') && !path.contains("..");
            ensure!(plain, "line {number}: expected a relative path that ends with .ko, found `{path}`");
            Ok(Wanted { path, hardware })
        })
        .collect()
}

/// Modules show up under `/sys/module` with dashes as underscores.
fn is_loaded(loaded: &Path, path: &str) -> bool {
    let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
    loaded.join(name).join("initstate").exists()
}

fn load(modules: &Path, wanted: &Wanted<'_>) -> Result<()> {
    let base = modules.join(wanted.path).display().to_string();
    for (suffix, flags) in SUFFIXES {
        let path = format!("{base}{suffix}");
        let Ok(file) = File::open(&path) else { continue };
        return match finit_module(&file, c"", flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(Errno::NODEV) if wanted.hardware => Ok(()),
            Err(e) => bail!("{path}: the kernel refused this module: {e}; was it built for this kernel?"),
        };
    }
    bail!("{base}: expected this module in the image (also as .xz or .zst), found none; correct modules.load")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path, list: &str) -> Places {
        fs::write(dir.join("list"), list).unwrap();
        Places { list: dir.join("list"), modules: dir.join("modules"), loaded: dir.join("loaded") }
    }

    #[test]
    fn the_list_has_comments_and_marks() {
        let list = parse("# why\nkernel/a.ko\n\n-kernel/b-c.ko # maybe\n").unwrap();
        let a = Wanted { path: "kernel/a.ko", hardware: false };
        assert_eq!(list, [a, Wanted { path: "kernel/b-c.ko", hardware: true }]);
    }

    #[test]
    fn a_path_out_of_the_module_folder_is_refused_with_its_line() {
        for bad in ["/a.ko", "../a.ko", "a.ko.xz", "a"] {
            let text = format!("{:#}", parse(&format!("\n{bad}")).unwrap_err());
            assert!(text.starts_with("line 2: expected a relative path"), "{text}");
        }
    }

    #[test]
    fn a_module_that_is_missing_is_refused_unless_it_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path(), "kernel/fs/tdx-guest.ko");
        let text = format!("{:#}", load_all(&places).unwrap_err());
        assert!(text.contains("kernel/fs/tdx-guest.ko") && text.contains("found none"), "{text}");
        fs::create_dir_all(dir.path().join("loaded/tdx_guest")).unwrap();
        fs::write(dir.path().join("loaded/tdx_guest/initstate"), "live").unwrap();
        load_all(&places).unwrap();
    }
}
