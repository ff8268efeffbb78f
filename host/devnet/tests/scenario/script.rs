//! The form of `scenarios/*.json`. Names stand for wallets and contracts; keys have names of their own.

use serde::Deserialize;
use std::path::Path;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    #[serde(rename = "what")]
    _what: String,
    scenarios: Vec<Scenario>,
}

/// One story.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub steps: Vec<Step>,
}

/// One step of a story.
#[derive(Debug, Deserialize)]
pub struct Step {
    #[serde(flatten)]
    pub act: Act,
    /// Exit code of the contract that is called.
    #[serde(default)]
    pub exit: i32,
}

/// What is done.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    Fund { who: Vec<String>, amount: u64 },
    Advance(u32),
    Pool { name: String, owner: String, grace: u32, value: u64 },
    Vault { name: String, owner: String, key: String, pool: String, value: u64 },
    Root { name: String, by: String, owners: Vec<String>, threshold: u8, delay: u32, value: u64 },
    Register(Register),
    ClaimVault(ClaimVault),
    ClaimPool(ClaimPool),
    Surplus(SurplusOf),
    Send(Send),
    Propose { by: String, root: String, price: u64 },
    Get(Get),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub by: String,
    pub pool: String,
    pub epoch: u32,
    pub key: String,
    pub signed_by: Option<String>,
    pub allot: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimVault {
    pub by: String,
    pub vault: String,
    pub cap: u64,
    pub cap_key: String,
    pub session: String,
    pub total: u64,
    pub use_key: String,
    pub network: Option<i32>,
    pub place: Option<String>,
    #[serde(default)]
    pub expired: bool,
    pub value: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimPool {
    pub by: String,
    pub pool: String,
    pub epoch: u32,
    pub worker: String,
    pub total: u64,
    pub key: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurplusOf {
    pub by: String,
    pub pool: String,
    pub epoch: u32,
    pub total: u64,
    pub key: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    pub by: String,
    pub to: String,
    pub body: String,
    #[serde(default)]
    pub amount: u64,
    pub value: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    pub of: String,
    pub method: String,
    #[serde(default)]
    pub args: Vec<i64>,
    /// Values that are left out at the beginning.
    #[serde(default)]
    pub skip: usize,
    /// What they are; null: whatever gas left of it, which only the emulator compares.
    pub is: Vec<Option<i64>>,
}

/// The committed scenarios.
pub fn scenarios() -> Vec<Scenario> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/payment.json");
    let text = std::fs::read_to_string(&file).expect("the scenarios are committed");
    let script: Script =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    script.scenarios
}
