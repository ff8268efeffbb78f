//! The commands of the how-tos, run as they stand on the pages: `support/pages.rs` says which.
//!
//! Each page has a folder of its own with what its readers have: evidence and collateral of a SIMULATED platform, a build whose
//! files are small but measure like real ones, firmware, and the locks of this checkout. Nothing here boots, and nothing needs
//! a network; blocks that do say so in their first line and are only parsed.

#[path = "support/pages.rs"]
mod pages;

use measure::Digest256;
use pages::Block;
use simulator::fault::Fault;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Whether the info string has this word.
fn has(block: &Block, mark: &str) -> bool {
    block.info.iter().any(|word| word == mark)
}

/// What stands behind `key=` in the info string.
fn value<'a>(block: &'a Block, key: &str) -> Option<&'a str> {
    block.info.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// What the reader is told that the commands need.
fn needs(block: &Block) -> Option<&str> {
    block.text.lines().next()?.strip_prefix("# needs: ").filter(|needs| !needs.is_empty())
}

/// What a reader of a how-to has at hand.
fn furnish(folder: &Path) {
    let case = Fault::None.case().expect("a simulated platform");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("a file is written");
    write("quote.bin", &case.evidence.quote);
    write("eventlog.bin", &case.evidence.event_log.bytes);
    write("static.toml", &case.evidence.static_config);
    write("runtime.bin", &case.evidence.runtime);
    write("collateral.json", case.collateral.to_json().as_bytes());
    write("reference.json", &serde_json::to_vec(&case.reference).expect("reference values"));
    write("root.der", &case.root_der);
    write("OVMF.fd", &measure::samples::tdx(Some(2), b" initrd=initrd", b"etc/boot/\0", b"ui"));
    fs::create_dir_all(folder.join("image")).expect("a folder");
    for lock in ["Cargo.lock", "image/packages.lock"] {
        fs::copy(pages::root().join(lock), folder.join(lock)).expect("a lock is copied");
    }
    build(&folder.join("out/worker"));
}

/// A build of the worker profile.
fn build(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let files = ["disk.raw", "uki.efi", "kernel", "initrd", "root.erofs", "root.verity", "manifest.json"];
    let listed = files.map(|file| {
        let bytes = if file == "uki.efi" { measure::samples::uki(b"console=ttyS0") } else { b"[]".to_vec() };
        fs::write(folder.join(file), &bytes).expect("a file is written");
        serde_json::json!({ "name": file, "sha256": Digest256::of(&bytes), "size": bytes.len() })
    });
    let hash = "ab".repeat(32);
    let artifacts = serde_json::json!({
        "schema": 1, "profile": "worker", "roothash": hash, "cmdline": "console=ttyS0", "kernel": "6.12",
        "toolchain": "rustc", "packages_lock": hash, "tools_lock": hash,
        "commit": "0123456789abcdef0123456789abcdef01234567", "inputs": hash, "files": listed,
    });
    fs::write(folder.join("artifacts.json"), artifacts.to_string()).expect("a file is written");
}

/// Runs one block as a shell does; gives what it printed, or what went wrong.
fn run(folder: &Path, block: &Block) -> Result<String, String> {
    let bin = Path::new(env!("CARGO_BIN_EXE_chrysalis")).parent().expect("a folder of programs");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &block.text]).current_dir(folder);
    shell.env("PATH", path).env("HOME", folder).env_remove("CHRYSALIS_CACHE");
    let output = shell.output().map_err(|e| format!("bash does not start: {e}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let expected = value(block, "exits").map_or(Ok(0), str::parse).map_err(|e| format!("exits=: {e}"))?;
    match output.status.code() {
        Some(code) if code == expected => Ok(said),
        code => Err(format!("exit code {code:?}, expected {expected}:\n{}{said}", block.text)),
    }
}

/// The lines of a `text shows` block that are not in what was printed, in their order; `...` stands for anything.
fn missing(shown: &str, said: &str) -> Vec<String> {
    let mut rest = said;
    let mut out = Vec::new();
    for line in shown.lines().filter(|line| !line.trim().is_empty()) {
        match line
            .split("...")
            .map(str::trim)
            .try_fold(rest, |left, part| left.split_once(part).map(|(_, r)| r))
        {
            Some(left) => rest = left,
            None => out.push(line.to_owned()),
        }
    }
    out
}

/// Everything that is wrong with the runnable blocks of a page, and how many there are.
fn follow(name: &str, text: &str) -> (usize, String) {
    let folder = tempfile::tempdir().expect("a folder");
    furnish(folder.path());
    let (mut ran, mut wrong, mut said) = (0, String::new(), String::new());
    for block in pages::blocks(text) {
        if let Some(file) = value(&block, "file") {
            fs::write(folder.path().join(file), &block.text).expect("a file of the page is written");
        } else if block.language() == "sh" && has(&block, "run") {
            ran += 1;
            match run(folder.path(), &block) {
                Ok(printed) => said = printed,
                // What follows rests on it.
                Err(why) => return (ran, format!("{name}:{}: {why}\n", block.line)),
            }
        } else if has(&block, "shows") {
            for line in missing(&block.text, &said) {
                writeln!(wrong, "{name}:{}: `{line}` is not in:\n{said}", block.line).expect("a string");
            }
        }
    }
    (ran, wrong)
}

#[test]
fn what_the_how_tos_say_can_be_done() {
    let (mut ran, mut wrong) = (0, String::new());
    for (name, text) in pages::how_tos() {
        let (blocks, found) = follow(&name, &text);
        ran += blocks;
        wrong += &found;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(ran >= 15, "only {ran} blocks were run");
}

#[test]
fn every_block_of_commands_is_run_or_says_what_it_needs() {
    let mut wrong = Vec::new();
    for (name, text) in pages::how_tos() {
        for block in pages::blocks(&text) {
            let commands = block.language() == "sh";
            if commands && has(&block, "run") == needs(&block).is_some() {
                wrong.push(format!(
                    "{name}:{}: mark it `sh run`, or begin it with `# needs: ...`",
                    block.line
                ));
            }
            let first = |line: &str| ["chrysalis ", "cargo "].iter().any(|program| line.starts_with(program));
            if !commands && block.language() != "console" && block.text.lines().any(first) {
                wrong.push(format!("{name}:{}: commands stand in `sh` blocks", block.line));
            }
            if block.language() == "console" {
                wrong.push(format!(
                    "{name}:{}: a how-to has `sh` and `text shows`, not `console`",
                    block.line
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_page_that_promises_too_much_would_be_noticed() {
    let page = "```sh run\necho one; echo two\n```\n```text shows\no...e\nthree\n```\n";
    let (ran, wrong) = follow("page", page);
    assert!(ran == 1 && wrong.contains("`three` is not in") && !wrong.contains("`o...e`"), "{wrong}");
    assert!(follow("page", "```sh run\nfalse | true\n```\n").1.contains("expected 0"));
    assert_eq!(follow("page", "```sh run exits=3\nexit 3\n```\n"), (1, String::new()));
    assert_eq!(
        follow("page", "```toml file=a\nb = 1\n```\n```sh run\ngrep -q b a\n```\n"),
        (1, String::new())
    );
}
