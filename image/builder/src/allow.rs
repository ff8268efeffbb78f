//! The allow list of the root file system: `image/rootfs.allow`.
//!
//! ```text
//! kernel linux-image-cloud-amd64            # metapackage whose kernel goes into the UKI
//! module initrd erofs                       # loaded before the root is mounted, dependencies first
//! module root virtio_net                    # loaded by init, before modules are locked
//! module gpu nvidia                         # the same, as long as there is a GPU (image/gpu.allow)
//! dir /proc                                 # an empty folder
//! package systemd
//!   /usr/lib/systemd/systemd                # PID 1
//!   /usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-*.so
//! ```
//! Every entry has its reason after a `#`. A `*` stands for any characters within one path component; a symlink brings
//! what it points to. What is not listed does not enter.

use anyhow::{Context, Result, bail};
use std::path::Path;

/// The parsed list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList {
    /// Kernel metapackage.
    pub kernel: String,
    /// Modules by name, in order of loading.
    pub modules: Vec<(Stage, String)>,
    /// Empty folders.
    pub dirs: Vec<String>,
    /// Allowed files.
    pub files: Vec<Entry>,
}

/// When a kernel module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// By the initrd.
    Initrd,
    /// By `init`, from the verified root.
    Root,
    /// By `init`, after those; the first that finds no GPU ends the loading of the rest.
    Gpu,
}

/// One allowed file or pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The package that must own it.
    pub package: String,
    /// Absolute path, `*` within a component.
    pub pattern: String,
    /// Why it is there.
    pub reason: String,
}

impl AllowList {
    /// Reads the list.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{}: can't read", path.display()))?;
        AllowList::parse(&text).with_context(|| format!("{}: not an allow list", path.display()))
    }

    /// Parses the list's text.
    pub fn parse(text: &str) -> Result<Self> {
        let list = AllowList::parse_more(text)?;
        if list.kernel.is_empty() {
            bail!("no `kernel` line");
        }
        Ok(list)
    }

    /// Parses a list that adds to another one: it need not name a kernel.
    pub(crate) fn parse_more(text: &str) -> Result<Self> {
        let mut list = AllowList { kernel: String::new(), modules: vec![], dirs: vec![], files: vec![] };
        let mut package: Option<String> = None;
        for (i, line) in text.lines().enumerate() {
            let (body, reason) = line.split_once('#').unwrap_or((line, ""));
            let (body, reason) = (body.trim(), reason.trim());
            if body.is_empty() {
                continue;
            }
            let words: Vec<&str> = body.split_whitespace().collect();
            if reason.is_empty() && words[0] != "package" {
                bail!("line {}: `{body}` has no reason; add one after a '#'", i + 1);
            }
            match (words.as_slice(), &package) {
                (["package", name], _) => package = Some((*name).into()),
                (["kernel", name], _) => list.kernel = (*name).into(),
                (["module", "initrd", name], _) => list.modules.push((Stage::Initrd, (*name).into())),
                (["module", "root", name], _) => list.modules.push((Stage::Root, (*name).into())),
                (["module", "gpu", name], _) => list.modules.push((Stage::Gpu, (*name).into())),
                (["dir", path], _) if path.starts_with('/') => list.dirs.push((*path).into()),
                ([path], Some(owner)) if path.starts_with('/') && !path.contains("..") => {
                    let entry =
                        Entry { package: owner.clone(), pattern: (*path).into(), reason: reason.into() };
                    list.files.push(entry);
                }
                _ => bail!(
                    "line {}: `{body}` is neither kernel, module, dir, package nor a path in one",
                    i + 1
                ),
            }
        }
        Ok(list)
    }

    /// This list and what another one adds; two kernels are refused.
    pub(crate) fn with(&self, more: &AllowList) -> Result<Self> {
        if !more.kernel.is_empty() {
            bail!("a second `kernel` line: `{}`; one image has one kernel", more.kernel);
        }
        let mut all = self.clone();
        all.modules.extend(more.modules.iter().cloned());
        all.dirs.extend(more.dirs.iter().cloned());
        all.files.extend(more.files.iter().cloned());
        Ok(all)
    }

    /// Names of the packages that own something, sorted, each once.
    pub fn packages(&self) -> impl Iterator<Item = &str> {
        let names: std::collections::BTreeSet<&str> = self.files.iter().map(|f| f.package.as_str()).collect();
        names.into_iter()
    }
}

/// True if `path` matches `pattern`: equal but for `*`, which stands for any characters other than `/`.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((head, tail)) => path.strip_prefix(head).is_some_and(|rest| {
            let end = rest.find('/').unwrap_or(rest.len());
            (0..=end).any(|i| rest.is_char_boundary(i) && matches(tail, &rest[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_reason_is_refused_with_its_line() {
        let error = AllowList::parse("kernel k # why\npackage a\n  /x\n").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("reason"), "{error}");
    }

    #[test]
    fn a_list_that_adds_to_another_brings_no_kernel_of_its_own() {
        let list = AllowList::parse("kernel k # r\nmodule root a # r\n").unwrap();
        let more = AllowList::parse_more("module gpu b # r\npackage p\n /x # r\n").unwrap();
        let all = list.with(&more).unwrap();
        assert_eq!(all.modules, [(Stage::Root, "a".into()), (Stage::Gpu, "b".into())]);
        assert_eq!(all.packages().collect::<Vec<_>>(), ["p"]);
        assert!(AllowList::parse("module gpu b # r\n").is_err());
        assert!(list.with(&list).unwrap_err().to_string().contains("one kernel"));
    }

    #[test]
    fn a_path_outside_a_package_is_refused() {
        assert!(AllowList::parse("kernel k # why\n/x # why\n").is_err());
    }

    #[test]
    fn a_star_stays_within_its_component() {
        assert!(matches("/lib/libz-*.so", "/lib/libz-257.so"));
        assert!(!matches("/lib/*.so", "/lib/deep/libz.so"));
        assert!(!matches("/lib/libz-*.so", "/lib/libz-257.so.1"));
    }

    #[test]
    fn packages_are_named_once() {
        let list =
            AllowList::parse("kernel k # r\npackage b\n /x # r\n /y # r\npackage a\n /z # r\n").unwrap();
        assert_eq!(list.packages().collect::<Vec<_>>(), ["a", "b"]);
    }
}
