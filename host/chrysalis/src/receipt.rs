//! `chrysalis receipt`: what a receipt shows, and what it does not; and the list of those that were kept.

use crate::chain_args::in_ton;
use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result, bail};
use client::gateway::{Due, Entry, LOG, NOT_SHOWN, Outcome as Came, read_log, receipt_of, use_of};
use payment::receipt::{End, Receipt};
use payment::{PublicKey, Signed};
use protocol::market::{Blob, Hex32};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The two commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a receipt: signature, price, and what is given of request, answer, weights and release.
    Verify(VerifyArgs),
    /// List the receipts that a gateway kept.
    List(ListArgs),
}

/// Options of `receipt verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A line of the receipt log, or the value of the `chrysalis-receipt` field (then with --session-key); `-` is standard input.
    file: PathBuf,
    /// The session key that was attested, 64 hexadecimal digits; that of the log's line if absent.
    #[arg(long, value_name = "HEX")]
    session_key: Option<Hex32>,
    /// The request's body, byte for byte.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The answer's body, byte for byte.
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// Verity root of the weights that should have answered, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    model_root: Option<Hex32>,
    /// Digest of the release that the worker should be of, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    release: Option<Hex32>,
}

/// Options of `receipt list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// The gateway's folder.
    #[arg(long, default_value = "out/gateway")]
    state: PathBuf,
    /// How many of the newest.
    #[arg(long, default_value_t = 50)]
    last: usize,
}

/// Routes.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Verify(args) => verify(&args, json),
        Command::List(args) => list(&args, json),
    }
}

/// What a receipt came to.
#[derive(Serialize)]
struct Verdict {
    accepted: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    receipt: Shown,
    checked: Vec<&'static str>,
    not_checked: Vec<&'static str>,
    not_shown: [&'static str; 4],
}

/// A receipt's fields, as people read them.
#[derive(Serialize)]
struct Shown {
    global_id: i32,
    vault: String,
    request: u64,
    time: u64,
    request_hash: Hex32,
    response_hash: Hex32,
    model_root: Hex32,
    release: Hex32,
    evidence: Hex32,
    tokens: payment::price::Tokens,
    price: payment::price::Price,
    charged: u64,
    total: u64,
    end: &'static str,
    session_key: Hex32,
}

fn verify(args: &VerifyArgs, json: bool) -> Result<Outcome> {
    let text = input(&args.file)?;
    let entry = text.lines().rev().find_map(|line| serde_json::from_str::<Entry>(line).ok());
    let (blob, key) = match &entry {
        Some(entry) => (entry.receipt.clone(), Some(entry.session_key)),
        None => (text.trim().parse::<Blob>().ok(), None),
    };
    let blob = blob.with_context(|| {
        let name = args.file.display();
        format!("{name}: expected a line of {LOG} with a receipt, or the value of `chrysalis-receipt`")
    })?;
    let Some(Hex32(key)) = args.session_key.or(key) else {
        bail!(
            "--session-key: a bare receipt says not whose signature it wants; give the key that was attested"
        );
    };
    let key = PublicKey::from_bytes(&key).context("--session-key")?;
    let signed = receipt_of(&blob).with_context(|| format!("{}", args.file.display()))?;
    let due = Due {
        request_hash: hash(args.request.as_deref())?,
        response_hash: hash(args.response.as_deref())?,
        model_root: args.model_root.map(|root| root.0),
        release: args.release.map(|release| release.0),
        ..Due::default()
    };
    let verdict = judge(&due, &signed, &key, entry.as_ref());
    let outcome = if verdict.accepted { Outcome::Fine } else { Outcome::Mismatch };
    facts(json, &verdict, || human(&verdict))?;
    Ok(outcome)
}

fn judge(due: &Due, signed: &Signed<Receipt>, key: &PublicKey, entry: Option<&Entry>) -> Verdict {
    let given = [
        ("request hash", due.request_hash.is_some()),
        ("response hash", due.response_hash.is_some()),
        ("model root", due.model_root.is_some()),
        ("release", due.release.is_some()),
    ];
    let beside = entry.and_then(|entry| entry.used.as_ref());
    let refused = due.check(signed, key).err().map(|error| error.to_string());
    let refused = refused.or_else(|| beside.and_then(|used| use_beside(signed, used, key)));
    let pick = |wanted: bool| given.iter().filter(move |(_, is)| *is == wanted).map(|(name, _)| *name);
    let mut checked = vec!["signature", "charge = price x tokens, or less"];
    checked.extend(beside.map(|_| "the use beside it"));
    checked.extend(pick(true));
    Verdict {
        accepted: refused.is_none(),
        refused,
        receipt: shown(&signed.voucher, key),
        checked,
        not_checked: pick(false).collect(),
        not_shown: NOT_SHOWN,
    }
}

/// Why the use isn't the one that belongs to the receipt.
fn use_beside(receipt: &Signed<Receipt>, used: &Blob, key: &PublicKey) -> Option<String> {
    let used = match use_of(used).and_then(|used| used.verify(key)) {
        Ok(used) => *used.voucher(),
        Err(error) => return Some(error.to_string()),
    };
    let of = &receipt.voucher;
    let same = (used.global_id, used.vault, used.total) == (of.global_id, of.vault, of.total);
    (!same).then(|| "the use is not that of the receipt: another network, vault or total".into())
}

fn shown(receipt: &Receipt, key: &PublicKey) -> Shown {
    Shown {
        global_id: receipt.global_id,
        vault: receipt.vault.to_string(),
        request: receipt.request,
        time: receipt.time,
        request_hash: Hex32(receipt.request_hash),
        response_hash: Hex32(receipt.response_hash),
        model_root: Hex32(receipt.model_root),
        release: Hex32(receipt.release),
        evidence: Hex32(receipt.evidence),
        tokens: receipt.tokens,
        price: receipt.price,
        charged: receipt.charged,
        total: receipt.total,
        end: match receipt.end {
            End::Complete => "complete",
            End::Cancelled => "cancelled",
        },
        session_key: Hex32(key.to_bytes()),
    }
}

fn human(verdict: &Verdict) -> String {
    let receipt = &verdict.receipt;
    let tokens = receipt.tokens;
    let mut text = match &verdict.refused {
        None => "ACCEPTED\n".to_owned(),
        Some(reason) => format!("REFUSED: {reason}\n"),
    };
    let rows = [
        ("vault", receipt.vault.clone()),
        ("request", receipt.request.to_string()),
        (
            "charged",
            format!("{} TON ({} nanoTON), {}", in_ton(receipt.charged), receipt.charged, receipt.end),
        ),
        (
            "tokens",
            format!(
                "{} prompt, {} cached, {} completion, {} reasoning",
                tokens.prompt, tokens.cached, tokens.completion, tokens.reasoning
            ),
        ),
        ("model root", receipt.model_root.to_string()),
        ("release", receipt.release.to_string()),
        ("evidence", receipt.evidence.to_string()),
        ("request hash", receipt.request_hash.to_string()),
        ("response hash", receipt.response_hash.to_string()),
        ("session key", receipt.session_key.to_string()),
        ("checked", verdict.checked.join(", ")),
        ("not checked", verdict.not_checked.join(", ")),
    ];
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        text += &format!("  {name:<14} {value}\n");
    }
    text += "  It does not show:\n";
    verdict.not_shown.iter().fold(text, |text, line| text + "    - " + line + "\n")
}

fn list(args: &ListArgs, json: bool) -> Result<Outcome> {
    let path = args.state.join(LOG);
    let (mut entries, torn) = read_log(&path).with_context(|| format!("{}", path.display()))?;
    let charged = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.charged));
    let count = entries.len();
    entries.drain(..count.saturating_sub(args.last));
    let value = serde_json::json!({ "receipts": entries, "count": count, "charged": charged, "torn": torn });
    facts(json, &value, || {
        let mut text = String::from("time        outcome    charged TON    request              model\n");
        for entry in &entries {
            let outcome = match entry.outcome {
                Came::Settled => "settled",
                Came::Refused => "REFUSED",
                Came::Abandoned => "abandoned",
                Came::Free => "free",
            };
            let ton = in_ton(entry.charged);
            text += &format!(
                "{:<11} {outcome:<10} {ton:<14} {:<20} {}\n",
                entry.time, entry.request, entry.model
            );
        }
        text += &format!("{count} requests, {} TON in all", in_ton(charged));
        if torn > 0 { text + &format!("; {torn} lines were cut off by a crash") } else { text }
    })?;
    Ok(Outcome::Fine)
}

fn input(path: &Path) -> Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(1 << 20).read_to_end(&mut bytes).context("standard input")?;
        bytes
    } else {
        read(path)?
    };
    String::from_utf8(bytes).with_context(|| format!("{}: not text", path.display()))
}

fn hash(path: Option<&Path>) -> Result<Option<[u8; 32]>> {
    path.map(|path| Ok(Sha256::digest(read(path)?).into())).transpose()
}
