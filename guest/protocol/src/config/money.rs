//! The parts of the static configuration that are about money. They are measured: whoever appraises a proxy reads in its
//! evidence which pool its vouchers pay from, and a worker's evidence says whose wallet is paid.
//!
//! ```text
//! [ledger]  global_id zero_root zero_file root      which chain, and which registry on it: both roles
//! [pool]    address                                 a proxy's pool
//! [wallet]  address                                 where a worker is paid
//! [worker]  hours credit                            when and on what credit it works
//!           device precision kv_precision threads   on what it computes, which is no money (`compute.rs`)
//! ```
//! Without `[ledger]` a guest works unpaid and says so; with it, a proxy has a pool and a worker a wallet.

use super::{ConfigError, KvPrecision, Precision, Role, StaticConfig, WorkerDevice, compute, value};
use crate::market::{Account, Hex32};
use serde::{Deserialize, Serialize};

/// Which chain, and which Root contract on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// Configuration parameter 19 of the chain: -239 is main net's, -3 test net's.
    pub global_id: i32,
    /// Root hash of the masterchain's zero state.
    pub zero_root: Hex32,
    /// Hash of the zero state's file.
    pub zero_file: Hex32,
    /// The Root contract: prices, proxies, publication root.
    pub root: Account,
}

/// Whom a proxy's vouchers are drawn on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// The ProxyPool contract.
    pub address: Account,
}

/// Where a worker is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalletConfig {
    /// Any account; nobody needs its key here.
    pub address: Account,
}

/// When, on what credit and on what a worker works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Hours of the day (UTC) in which it takes jobs, from and to, 0 to 24; the whole day where absent. `[22, 6]` is the night.
    #[serde(default)]
    pub hours: Option<[u8; 2]>,
    /// nanoTON of delivered work that may wait for a voucher; a default of the worker's where absent.
    #[serde(default)]
    pub credit: Option<u64>,
    /// What it computes on; the processor where absent.
    #[serde(default)]
    pub device: Option<WorkerDevice>,
    /// In which form it holds weights; as their files have them where absent.
    #[serde(default)]
    pub precision: Option<Precision>,
    /// In which precision it holds keys and values; as its engine finds right for the weights where absent.
    #[serde(default)]
    pub kv_precision: Option<KvPrecision>,
    /// Threads of each text model on a processor, 1 to 1024; as many as there are processors where absent.
    #[serde(default)]
    pub threads: Option<u16>,
}

/// What belongs together is there together, and nothing is there for another role.
pub(super) fn check(config: &StaticConfig) -> Result<(), ConfigError> {
    let fault = |field: &str, found: &str, expected| Err(value("static", field.into(), found, expected));
    let proxy = config.role == Role::Proxy;
    let paid = config.ledger.is_some();
    match (&config.pool, &config.wallet) {
        (Some(_), _) if !proxy || !paid => {
            return fault("pool", "there", "[pool] in a proxy with [ledger] only");
        }
        (_, Some(_)) if proxy || !paid => {
            return fault("wallet", "there", "[wallet] in a worker with [ledger] only");
        }
        (None, _) if proxy && paid => return fault("pool", "absent", "[pool] in a proxy with [ledger]"),
        (_, None) if !proxy && paid => {
            return fault("wallet", "absent", "[wallet] in a worker with [ledger]");
        }
        _ => {}
    }
    match &config.worker {
        Some(_) if proxy => fault("worker", "there", "[worker] in a worker only"),
        Some(WorkerConfig { hours: Some([from, to]), .. }) if *from > 24 || *to > 24 || from == to => {
            fault("worker.hours", &format!("[{from}, {to}]"), "two different hours from 0 to 24")
        }
        Some(worker) => compute::check(worker),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn parse(role: &str, more: &str) -> Result<StaticConfig, ConfigError> {
        StaticConfig::parse(format!("schema = 1\nrole = \"{role}\"\nnetwork = \"local\"\n{more}").as_bytes())
    }

    fn ledger() -> String {
        format!("[ledger]\nglobal_id = -3\nzero_root = \"{A}\"\nzero_file = \"{A}\"\nroot = \"0:{A}\"\n")
    }

    #[test]
    fn a_paid_proxy_names_its_pool_and_a_paid_worker_its_wallet() {
        let proxy = parse("proxy", &format!("{}[pool]\naddress = \"0:{A}\"\n", ledger())).unwrap();
        assert_eq!(proxy.pool.unwrap().address, Account { workchain: 0, hash: [0xaa; 32] });
        let ledger_config = proxy.ledger.unwrap();
        assert_eq!((ledger_config.global_id, ledger_config.zero_root.0), (-3, [0xaa; 32]));
        let worker =
            format!("{}[wallet]\naddress = \"-1:{A}\"\n[worker]\nhours = [22, 6]\ncredit = 5\n", ledger());
        let worker = parse("worker", &worker).unwrap();
        assert_eq!(worker.wallet.unwrap().address.workchain, -1);
        assert_eq!(
            worker.worker.unwrap(),
            WorkerConfig { hours: Some([22, 6]), credit: Some(5), ..Default::default() }
        );
    }

    #[test]
    fn money_without_its_counterpart_or_for_another_role_is_refused() {
        let (pool, wallet) =
            (format!("[pool]\naddress = \"0:{A}\"\n"), format!("[wallet]\naddress = \"0:{A}\"\n"));
        for (role, more, says) in [
            ("proxy", ledger(), "pool is"),
            ("worker", ledger(), "wallet is"),
            ("proxy", pool.clone(), "pool is"),
            ("worker", wallet.clone(), "wallet is"),
            ("worker", format!("{}{wallet}{pool}", ledger()), "pool is"),
            ("proxy", format!("{}{wallet}{pool}", ledger()), "wallet is"),
            ("proxy", "[worker]\n".into(), "worker is"),
            ("worker", "[worker]\nhours = [3, 3]\n".into(), "worker.hours is"),
            ("worker", "[worker]\nhours = [0, 25]\n".into(), "worker.hours is"),
        ] {
            let text = parse(role, &more).unwrap_err().to_string();
            assert!(text.contains(says), "{more}: {text}");
        }
    }

    #[test]
    fn a_hash_or_an_account_in_another_form_is_refused_with_its_line() {
        let wallet = format!("[wallet]\naddress = \"0:{A}\"\n");
        for (bad, line) in [
            (ledger().replace(&format!("zero_root = \"{A}"), "zero_root = \"aa"), "line 6"),
            (ledger().replace("\"0:", "\""), "line 8"),
        ] {
            let text = parse("worker", &format!("{bad}{wallet}")).unwrap_err().to_string();
            assert!(text.contains(line), "{text}");
        }
    }
}
