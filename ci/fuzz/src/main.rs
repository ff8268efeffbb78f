//! The fuzzer: libFuzzer's own command line, for the target that `CHRYSALIS_FUZZ_TARGET` names.
//!
//! One program holds all targets, so the instrumented code is compiled once. With `CHRYSALIS_FUZZ_SEEDS` set to a
//! folder, it writes the target's seeds there and stops.

#![no_main]

use fuzz::Target;
use libfuzzer_sys::{Corpus, fuzz_target};
use std::path::Path;
use std::sync::OnceLock;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: choose(),
    |data: &[u8]| -> Corpus {
        // What is refused at once teaches the fuzzer little, but coverage decides what stays.
        (chosen().run)(data);
        Corpus::Keep
    }
);

fn chosen() -> &'static Target {
    TARGET.get_or_init(|| {
        let name = std::env::var("CHRYSALIS_FUZZ_TARGET").unwrap_or_default();
        Target::named(&name)
            .unwrap_or_else(|| stop(&format!("CHRYSALIS_FUZZ_TARGET is `{name}`, no such target")))
    })
}

fn choose() {
    let target = chosen();
    let Some(folder) = std::env::var_os("CHRYSALIS_FUZZ_SEEDS") else { return };
    for (i, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{i}"));
        if let Err(error) = std::fs::write(&path, seed) {
            stop(&format!("{}: can't write a seed: {error}", path.display()));
        }
    }
    std::process::exit(0);
}

fn stop(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(2)
}
