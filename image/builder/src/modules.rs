//! Kernel modules of the allow list: their dependencies first, decompressed, in the order in which they are loaded.

use crate::allow::Stage;
use crate::elf;
use crate::gpu::BuiltModule;
use crate::tools::{Tools, run};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One module, ready to be loaded.
pub(crate) struct Module {
    /// File name, such as `dm-mod.ko`.
    pub file: String,
    /// Where it is from, in words.
    pub origin: String,
    /// True if it was compiled here and carries no signature.
    pub built: bool,
    /// Decompressed; with the signature that the kernel checks, unless built here.
    pub bytes: Vec<u8>,
    /// When it is loaded.
    pub stage: Stage,
}

impl Module {
    /// What the manifest says of it.
    pub(crate) fn reason(&self) -> String {
        format!("kernel module, {}", self.origin)
    }
}

/// Resolves the wanted modules against what was built here and an unpacked kernel package.
pub(crate) fn resolve(
    kernel: &Path,
    built: &[BuiltModule],
    wanted: &[(Stage, String)],
    tools: &Tools,
) -> Result<Vec<Module>> {
    let mut available = BTreeMap::new();
    for name in crate::hash::walk(kernel)? {
        let file = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(stem) = file.strip_suffix(".ko.xz") {
            available.insert(stem.replace('-', "_"), name);
        }
    }
    let mut wanted = wanted.to_vec();
    wanted.sort_by_key(|(stage, _)| *stage);
    let mut resolver = Resolver { kernel, built, available, tools, done: Vec::new(), loaded: Vec::new() };
    for (stage, name) in &wanted {
        resolver.load(*stage, name, name)?;
    }
    Ok(resolver.done)
}

struct Resolver<'a> {
    kernel: &'a Path,
    built: &'a [BuiltModule],
    available: BTreeMap<String, PathBuf>,
    tools: &'a Tools,
    done: Vec<Module>,
    loaded: Vec<String>,
}

impl Resolver<'_> {
    /// Depth first, so that what a module depends on stands before it.
    fn load(&mut self, stage: Stage, name: &str, wanted_by: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if self.loaded.contains(&name) {
            return Ok(());
        }
        // Entered before its dependencies: a circle would end here instead of never.
        self.loaded.push(name.clone());
        let (file, origin, built, bytes) = self.find(&name, wanted_by)?;
        let depends = elf::modinfo(&bytes, "depends").with_context(|| format!("{name}: no .modinfo"))?;
        for dependency in depends.split(',').filter(|d| !d.is_empty()) {
            self.load(stage, dependency, &name)?;
        }
        self.done.push(Module { file, origin, built, bytes, stage });
        Ok(())
    }

    /// File name, origin, whether it was built here, and the bytes.
    fn find(&self, name: &str, wanted_by: &str) -> Result<(String, String, bool, Vec<u8>)> {
        if let Some(module) = self.built.iter().find(|module| module.name == name) {
            let origin = "compiled for this kernel, unsigned".to_owned();
            return Ok((module.file.to_owned(), origin, true, module.bytes.clone()));
        }
        let Some(path) = self.available.get(name) else {
            bail!(
                "module {name} (wanted by {wanted_by}): not in the kernel package; if it is built in, drop its line"
            );
        };
        let mut xz = self.tools.command("xz");
        let bytes = run("xz", xz.args(["--decompress", "--stdout"]).arg(self.kernel.join(path)))?;
        let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((file, format!("unpacked from /{}", path.display()), false, bytes))
    }
}

/// Text of the `order` file: one module a line, in loading order.
pub(crate) fn order(modules: &[Module], stage: Stage) -> String {
    modules.iter().filter(|m| m.stage == stage).map(|m| format!("{}\n", m.file)).collect()
}
