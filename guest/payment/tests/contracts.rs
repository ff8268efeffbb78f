//! The committed contracts are what their sources compile to.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler's modules, if somebody installed them (`npm ci` in `contracts/`, or a folder in `TOLK_MODULES`).
fn modules(contracts: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("TOLK_MODULES").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| contracts.join("node_modules"));
    folder.join("@ton/tolk-js/package.json").is_file().then_some(folder)
}

#[test]
fn committed_contracts_are_compiled_from_their_sources() {
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts");
    let Some(modules) = modules(&contracts) else {
        eprintln!("SKIPPED: no Tolk compiler; run `npm ci` in {}, or set TOLK_MODULES", contracts.display());
        return;
    };
    let mut node = Command::new(std::env::var_os("CHRYSALIS_NODE").unwrap_or_else(|| "node".into()));
    let run =
        node.arg("build.mjs").arg("--check").current_dir(&contracts).env("TOLK_MODULES", modules).output();
    let Ok(output) = run else {
        eprintln!("SKIPPED: no node; install nodejs to compile the contracts");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn committed_code_is_a_bag_of_cells_with_a_hash() {
    let all = [payment::contracts::VAULT, payment::contracts::POOL, payment::contracts::ROOT];
    for contract in all {
        assert!(contract.boc().starts_with(&[0xb5, 0xee, 0x9c, 0x72]), "{}", contract.name);
        assert_ne!(contract.code_hash(), [0; 32], "{}", contract.name);
    }
}
