//! `pki DIR`: the folder that stands in for Intel and for the platform's fused keys.
//!
//! ```text
//! DIR/root.der          trust root                  DIR/collateral.json  as a PCCS would serve it
//! DIR/policy.toml       policy that names the root  DIR/identity.bin     attestation key, mode 0600
//! ```
//! The keys of the certificate authorities are never written anywhere.

use anyhow::{Context, Result, bail};
use evidence::{CheckName, Collateral, Inputs, PolicyFile, show_time, verify};
use measure::Registers;
use simulator::{Identity, Options, Platform};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 60 * 60;
const POLICY: &str = "\
# Policy for one SIMULATED platform: what it accepts proves nothing about hardware.
schema = 1
platform = \"simulated\"
root = \"root.der\"
";

/// `pki DIR [--days N] [--json]`
#[derive(clap::Args)]
pub struct Args {
    /// Folder to make; one that still holds is kept as it is.
    dir: PathBuf,
    /// How long certificates and collateral hold.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Makes the folder, or keeps it.
pub fn run(args: &Args) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    // What is kept must outlast what is about to be done with it.
    let margin = DAY.min(args.days * DAY / 2);
    let kept = check(&args.dir, now, margin);
    let (expires, why) = match &kept {
        Ok(expires) => (*expires, String::new()),
        Err(why) => (make(&args.dir, now, args.days)?, why.to_string()),
    };
    report(args, kept.is_ok(), expires, &why);
    Ok(())
}

fn report(args: &Args, kept: bool, expires: u64, why: &str) {
    let dir = args.dir.display();
    if args.json {
        let facts = serde_json::json!({
            "simulated": true, "folder": args.dir, "kept": kept, "expires": expires, "reason": why,
        });
        println!("{facts}");
    } else if kept {
        println!("SIMULATED platform: {dir} is kept, it holds until {}", show_time(expires));
    } else {
        println!("SIMULATED platform: {dir} was made ({why}), it holds until {}", show_time(expires));
    }
}

/// When the folder expires, if all of it is there, belongs together and holds for `margin` seconds more.
fn check(dir: &Path, now: u64, margin: u64) -> Result<u64> {
    let read = |name: &str| fs::read(dir.join(name)).with_context(|| format!("no {name}"));
    let identity = Identity::from_bytes(&read("identity.bin")?)?;
    let collateral = Collateral::parse(&read("collateral.json")?)?;
    let text = String::from_utf8(read("policy.toml")?).context("policy.toml is not text")?;
    let file = PolicyFile::parse(&text)?;
    let root = file.root().context("policy.toml names no root")?.to_owned();
    let policy = file.resolve(Some(&read(&root)?))?;
    let quote = identity.quote(&identity.td_report(&Registers::ZERO, [0; 48], [0; 64]));
    let verdict = verify(&Inputs {
        quote: &quote,
        collateral: &collateral,
        policy: &policy,
        event_log: None,
        static_config: None,
        runtime: None,
        reference: None,
        report_data: None,
        at: now + margin,
    });
    if let Some(check) = verdict.failed().next() {
        let it = if check.name == CheckName::CollateralWindow {
            "it no longer holds"
        } else {
            "it does not hold together"
        };
        bail!("{it}: {}", check.actual);
    }
    verdict.expires().context("it has no end")
}

fn make(dir: &Path, now: u64, days: u64) -> Result<u64> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let options = Options::valid(now, days);
    let expires = options.until;
    let platform = Platform::with(options)?;
    write(dir, "root.der", &platform.root_der()?, 0o644)?;
    write(dir, "collateral.json", platform.collateral()?.to_json().as_bytes(), 0o644)?;
    write(dir, "policy.toml", POLICY.as_bytes(), 0o644)?;
    write(dir, "identity.bin", &platform.identity()?.to_bytes(), 0o600)?;
    Ok(expires)
}

/// Whole or not at all, and never readable by others in between.
fn write(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let (path, new) = (dir.join(name), dir.join(format!(".{name}.new")));
    let attempt = || -> std::io::Result<()> {
        match fs::remove_file(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}
