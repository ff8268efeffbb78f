//! Which chain, and which root contract: options of everything that looks at the network's book.

use crate::money::chain::Pinned;
use anyhow::{Context, Result};
use client::gateway::{Facts, look};
use payment::Address;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use ton::contract::account_of;
use ton::{LiteClient, Network, parse_address};

/// Options that name a chain and the root on it.
#[derive(Debug, Clone, clap::Args)]
pub struct ChainArgs {
    /// The network (JSON: `global_id`, `zero_root`, `zero_file`, or a file with these under `network`, as the local chain writes).
    #[arg(long, value_name = "FILE")]
    network: PathBuf,
    /// A server of the chain, `IP:PORT`; nothing that it says is believed without proof.
    #[arg(long, value_name = "IP:PORT", required = true)]
    ledger: Vec<SocketAddr>,
    /// The root contract, which lists proxies and prices.
    #[arg(long, value_name = "ADDRESS")]
    root: String,
}

/// A chain that can be asked.
pub struct Chain {
    /// Checks every proof.
    pub ledger: Arc<LiteClient>,
    /// The pinned network.
    pub network: Network,
    /// The root contract.
    pub root: Address,
}

impl ChainArgs {
    /// Reads the network; nothing is asked yet.
    pub fn open(&self) -> Result<Chain> {
        let network = Pinned::read(&self.network)?.network;
        let root = account("--root", &self.root)?;
        let ledger = Arc::new(LiteClient::of_several(&self.ledger, network));
        Ok(Chain { ledger, network, root })
    }
}

impl Chain {
    /// Book and vaults, proven now.
    pub async fn look(&self, vaults: &[Address]) -> Result<Facts> {
        look(self.ledger.as_ref(), &self.root, vaults)
            .await
            .context("--ledger, --root: nothing could be proven")
    }
}

/// An address that stands in an option.
pub fn account(option: &str, text: &str) -> Result<Address> {
    let address = parse_address(text).map_err(anyhow::Error::msg).with_context(|| option.to_owned())?;
    Ok(account_of(&address))
}

/// nanoTON of an amount in TON with up to nine decimals.
pub fn coins(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}`: expected an amount in TON, such as 1 or 0.25");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return Err(wrong());
    }
    let nano: u64 = format!("{part:0<9}").parse().map_err(|_| wrong())?;
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    whole.checked_mul(1_000_000_000).and_then(|coins| coins.checked_add(nano)).ok_or_else(wrong)
}

/// An amount in TON, for people; every nanoTON of it.
pub fn in_ton(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_to_the_nanoton_or_refused() {
        assert_eq!(coins("1"), Ok(1_000_000_000));
        assert_eq!(coins("0.000000001"), Ok(1));
        assert_eq!(coins("18446744073.709551615"), Ok(u64::MAX));
        for wrong in ["", ".", "1.", ".5", "-1", "1e3", "0.0000000001", "18446744073.709551616", "1,5"] {
            assert!(coins(wrong).is_err(), "{wrong}");
        }
        for nano in [0, 1, 250_000_000, u64::MAX] {
            assert_eq!(coins(&in_ton(nano)), Ok(nano));
        }
    }
}
