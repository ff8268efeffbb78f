//! What the gateway says of itself: a closed schema of numbers and states, as JSON and for Prometheus. Nothing of any request.

use super::Gateway;
use super::receipts::Outcome;
use protocol::market::{Account, Hex32};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where it is served.
pub const PATH: &str = "/chrysalis/v1/status";
/// Where the same is for Prometheus.
pub const METRICS: &str = "/metrics";

/// How a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attested and asked.
    Connected,
    /// Not connected; it is tried again.
    Away,
    /// It did what a right one never does.
    Left,
}

/// One proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Whom the vault pays.
    pub pool: Account,
    /// `HOST:PORT`, by the book.
    pub endpoint: String,
    /// How it stands.
    pub state: State,
    /// Why it is away or was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Attested; signs receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<Hex32>,
    /// Whether its platform is SIMULATED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<bool>,
    /// Name of its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Requests under way.
    pub in_flight: u64,
    /// Models that it lists.
    pub models: u64,
}

/// One vault, nanoTON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultStatus {
    /// Where it is.
    pub vault: Account,
    /// Charged, by verified uses.
    pub used: u64,
    /// The highest cap that was signed: the most that can be lost.
    pub allowed: u64,
    /// What it ever held, as the chain proves it; absent until it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposited: Option<u64>,
    /// What caps may still grow by today.
    pub left_today: u64,
    /// Requests that wait for a receipt.
    pub open: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Always 1.
    pub schema: u32,
    /// Number of the newest block that was proven; 0 before the first.
    pub block: u32,
    /// Its time, Unix seconds.
    pub block_time: u32,
    /// Requests that were settled, that were not charged, whose receipt never came, whose receipt was wrong.
    pub settled: u64,
    /// See `settled`.
    pub free: u64,
    /// See `settled`.
    pub abandoned: u64,
    /// See `settled`.
    pub refused: u64,
    /// nanoTON charged since the gateway was started.
    pub charged: u64,
    /// Each proxy.
    pub proxies: Vec<ProxyStatus>,
    /// Each vault.
    pub vaults: Vec<VaultStatus>,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    settled: AtomicU64,
    free: AtomicU64,
    abandoned: AtomicU64,
    refused: AtomicU64,
    charged: AtomicU64,
}

impl Counts {
    /// One more.
    pub fn add(&self, outcome: Outcome, charged: u64) {
        let count = match outcome {
            Outcome::Settled => &self.settled,
            Outcome::Free => &self.free,
            Outcome::Abandoned => &self.abandoned,
            Outcome::Refused => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.charged.fetch_add(charged, Ordering::Relaxed);
    }
}

impl Gateway {
    /// How everything stands.
    pub fn status(&self) -> Status {
        let (facts, counts) = (self.facts(), &self.book.counts);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Status {
            schema: 1,
            block: facts.seqno,
            block_time: facts.time,
            settled: count(&counts.settled),
            free: count(&counts.free),
            abandoned: count(&counts.abandoned),
            refused: count(&counts.refused),
            charged: count(&counts.charged),
            proxies: self.proxies().iter().map(|proxy| proxy_status(proxy)).collect(),
            vaults: self.vaults(),
        }
    }

    fn vaults(&self) -> Vec<VaultStatus> {
        let day = super::now() / 86_400;
        let vault = |account: &std::sync::Arc<super::account::Account>| {
            let standing = account.standing();
            let ledger = standing.ledger;
            // The day's first request sets what was used when it began.
            let at_dawn = if ledger.day == day { ledger.at_dawn } else { ledger.used };
            let until = at_dawn.saturating_add(self.settings.limits.per_day);
            VaultStatus {
                vault: super::pending::account_of(account.address()),
                used: ledger.used,
                allowed: ledger.allowed,
                deposited: standing.view.map(|view| view.deposited()),
                left_today: until.saturating_sub(ledger.allowed),
                open: standing.open as u64,
            }
        };
        self.accounts.values().map(vault).collect()
    }
}

fn proxy_status(proxy: &super::proxy::Proxy) -> ProxyStatus {
    let live = proxy.connected();
    let peer = live.as_ref().and_then(|live| live.requests.peer());
    let verdict = peer.as_ref().map(|peer| peer.appraised().verdict());
    ProxyStatus {
        pool: super::pending::account_of(proxy.pool()),
        endpoint: proxy.endpoint(),
        state: match (&live, proxy.is_left()) {
            (_, true) => State::Left,
            (Some(_), false) => State::Connected,
            (None, false) => State::Away,
        },
        reason: if live.is_some() { None } else { proxy.trouble() },
        session_key: live.as_ref().map(|live| Hex32(live.key.to_bytes())),
        simulated: verdict.map(|verdict| verdict.platform == evidence::Platform::Simulated),
        release: verdict.and_then(|verdict| verdict.release.clone()),
        in_flight: live.as_ref().map_or(0, |live| live.requests.in_flight() as u64),
        models: live.as_ref().map_or(0, |live| live.terms.models.len() as u64),
    }
}

impl Status {
    /// The same in Prometheus' text form; no label but the closed names of outcomes and states.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, u64)]| {
            // A string takes whatever is written.
            let _ = writeln!(
                out,
                "# HELP chrysalis_gateway_{name} {help}\n# TYPE chrysalis_gateway_{name} {kind}"
            );
            for (label, value) in rows {
                let _ = writeln!(out, "chrysalis_gateway_{name}{label} {value}");
            }
        };
        let outcomes = [
            ("{outcome=\"settled\"}", self.settled),
            ("{outcome=\"free\"}", self.free),
            ("{outcome=\"abandoned\"}", self.abandoned),
            ("{outcome=\"refused\"}", self.refused),
        ];
        family("requests_total", "counter", "Requests under a cap, by what came of them.", &outcomes);
        family("charged_nanoton_total", "counter", "nanoTON charged since the start.", &[("", self.charged)]);
        let count = |state| self.proxies.iter().filter(|proxy| proxy.state == state).count() as u64;
        let states = [
            ("{state=\"connected\"}", count(State::Connected)),
            ("{state=\"away\"}", count(State::Away)),
            ("{state=\"left\"}", count(State::Left)),
        ];
        family("proxies", "gauge", "Proxies that a vault pays, by how they stand.", &states);
        let sum = |of: fn(&VaultStatus) -> u64| self.vaults.iter().map(of).fold(0, u64::saturating_add);
        family("used_nanoton", "gauge", "nanoTON used of all vaults.", &[("", sum(|vault| vault.used))]);
        family(
            "allowed_nanoton",
            "gauge",
            "nanoTON allowed of all vaults.",
            &[("", sum(|vault| vault.allowed))],
        );
        family(
            "open_requests",
            "gauge",
            "Requests that wait for a receipt.",
            &[("", sum(|vault| vault.open))],
        );
        family(
            "block_time_seconds",
            "gauge",
            "Time of the newest proven block.",
            &[("", self.block_time.into())],
        );
        out
    }
}
