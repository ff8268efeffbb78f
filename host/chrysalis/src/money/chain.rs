//! The chain that a command works on, and sending from a wallet until a proven state shows the effect.

use super::key;
use crate::input::read;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ton::wallet::{Wallet, sequence};
use ton::{Address, Cell, Ledger as _, LiteClient, Network, ProvenAccount, message};
use tycho_types::models::{IntAddr, MsgInfo, OwnedMessage, StateInit};

/// How long an effect may take to show.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a transfer is valid; after that it can be sent again without harm.
const VALID: u32 = 120;
/// Transactions of a contract that are looked through for one's own.
const TRANSACTIONS: usize = 64;
/// What a message carries for its gas; what is left comes back.
pub const GAS: u128 = 100_000_000;

/// Options of everything that looks at the chain.
#[derive(Debug, Clone, clap::Args)]
pub struct ChainArgs {
    /// File that pins the network: `global_id`, `zero_root` and `zero_file` in JSON, or the `network.json` of a local chain.
    #[arg(long, default_value = "network.json")]
    pub network: PathBuf,
    /// `IP:PORT` of a lite server; repeat it for several. None is believed. The file's `listen` if absent.
    #[arg(long)]
    pub ledger: Vec<SocketAddr>,
}

/// Options of everything that sends.
#[derive(Debug, Clone, clap::Args)]
pub struct WalletArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Key file of the wallet that pays, made by `chrysalis wallet new`.
    #[arg(long)]
    pub wallet: PathBuf,
}

/// A pinned chain.
pub struct Chain {
    pub client: LiteClient,
    pub network: Network,
}

/// A pinned chain and a wallet on it.
pub struct Purse {
    pub chain: Chain,
    pub wallet: Wallet,
}

/// What a file pins: the network alone, or as a local chain writes it, with where its server listens.
#[derive(Deserialize)]
pub struct Pinned {
    pub network: Network,
    listen: Option<SocketAddr>,
}

impl Pinned {
    /// Reads either form.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            read(path).context("--network: give the file that pins the network, such as `network.json`")?;
        serde_json::from_slice(&bytes)
            .or_else(|_| serde_json::from_slice(&bytes).map(|network| Pinned { network, listen: None }))
            .with_context(|| {
                format!("--network {}: expected global_id, zero_root and zero_file in JSON", path.display())
            })
    }
}

impl ChainArgs {
    /// The pinned network, and servers to ask.
    pub fn pinned(&self) -> Result<(Network, Vec<SocketAddr>)> {
        let place = self.network.display();
        let Pinned { network, listen } = Pinned::read(&self.network)?;
        let servers = if self.ledger.is_empty() { listen.into_iter().collect() } else { self.ledger.clone() };
        ensure!(!servers.is_empty(), "no lite server: give --ledger IP:PORT, for {place} names none");
        Ok((network, servers))
    }

    /// A client that checks proofs.
    pub fn open(&self) -> Result<Chain> {
        let (network, servers) = self.pinned()?;
        Ok(Chain { client: LiteClient::of_several(&servers, network), network })
    }
}

impl WalletArgs {
    /// The wallet on its chain.
    pub fn open(&self) -> Result<Purse> {
        let chain = self.chain.open()?;
        let wallet = Wallet::from_seed(&key::read(&self.wallet)?, chain.network.global_id)?;
        Ok(Purse { chain, wallet })
    }
}

impl Chain {
    /// An account, proven.
    pub async fn account(&self, address: &Address) -> Result<ProvenAccount> {
        Ok(self.client.account(address).await?)
    }

    /// The chain's time: of its newest proven block.
    pub async fn now(&self) -> Result<u32> {
        Ok(self.client.head().await?.gen_utime())
    }
}

impl Purse {
    /// Sends one message of `value` nanoTON and waits until the wallet has acted on it.
    ///
    /// A broadcast may be lost, so it is sent again while it is valid; the wallet's number makes sure that it acts once.
    pub async fn send(&self, to: &Address, value: u128, init: Option<StateInit>, body: Cell) -> Result<()> {
        let from = self.wallet.address();
        let before = self.chain.account(from).await?;
        ensure!(
            before.balance() > value,
            "wallet {from} holds {}, {} are needed beside fees; send it coins first",
            super::amount::show(before.balance().cast_signed()),
            super::amount::show(value.cast_signed())
        );
        let seqno = sequence(&before)?;
        let valid_until = before.block().gen_utime() + VALID;
        // A message that brings first code and data can't come back: there is nobody who could refuse it.
        let bounce = init.is_none();
        let internal = message::internal(to, value, bounce, init, body)?;
        let transfer = self.wallet.transfer(seqno, valid_until, &[(internal, 3)])?;
        let acted = |account: &ProvenAccount| {
            (sequence(account).unwrap_or(0) > seqno).then_some(Ok(())).or_else(|| {
                (account.block().gen_utime() > valid_until)
                    .then(|| Err("the transfer ran out before it was taken"))
            })
        };
        let until = Instant::now() + PATIENCE;
        loop {
            self.chain.client.send(&transfer).await?;
            match ton::shown(&self.chain.client, from, Duration::from_secs(10), acted).await? {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => bail!("wallet {from}: {why}; nothing was sent, try again"),
                None if Instant::now() > until => {
                    bail!(
                        "wallet {from}: the transfer was not seen to be taken; look at the wallet before you try again"
                    )
                }
                None => {}
            }
        }
    }

    /// Sends, then waits until the proven state of `to` shows `what`. The contract's own refusal is told by its exit code.
    pub async fn effect<T: Send>(
        &self,
        to: &Address,
        value: u128,
        init: Option<StateInit>,
        body: Cell,
        what: impl Fn(&ProvenAccount) -> Option<T> + Send + Sync,
    ) -> Result<T> {
        let since = self.chain.account(to).await?.last_lt();
        self.send(to, value, init, body).await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let account = self.chain.account(to).await?;
            if self.arrived(&account, since).await?
                && let Some(found) = what(&account)
            {
                return Ok(found);
            }
            ensure!(Instant::now() < until, "{to}: the effect did not show within {} s", PATIENCE.as_secs());
            self.chain.client.head_after(account.block().seqno(), Duration::from_secs(10)).await?;
        }
    }

    /// Whether a message of this wallet's arrived after `since`.
    ///
    /// # Errors
    /// If the contract refused it.
    async fn arrived(&self, at: &ProvenAccount, since: u64) -> Result<bool> {
        if at.last_lt() <= since {
            return Ok(false);
        }
        let done = self.chain.client.transactions(at, since, TRANSACTIONS).await?;
        let mut ours =
            done.iter().filter(|done| is_from(done.in_msg.as_ref(), self.wallet.address())).peekable();
        let arrived = ours.peek().is_some();
        if let Some(code) = ours.find_map(|done| done.exit_code.filter(|code| *code > 1)) {
            bail!("{} refused the message: {}; the coins came back, less fees", at.address(), refusal(code));
        }
        Ok(arrived)
    }
}

/// Whether a message comes from this account.
fn is_from(message: Option<&Cell>, sender: &Address) -> bool {
    let parsed = message.and_then(|cell| cell.parse::<OwnedMessage>().ok());
    matches!(parsed.map(|message| message.info), Some(MsgInfo::Int(info)) if info.src == IntAddr::Std(sender.clone()))
}

/// What an exit code of the contracts means (`docs/reference/payment.md`).
pub fn refusal(code: i32) -> String {
    let meaning = match code {
        101 => "the wallet is not the owner",
        102 => "the voucher is of another network",
        103 => "the voucher is for another contract",
        104 => "the voucher has expired",
        105 => "the signature is wrong",
        106 => "over the cap",
        107 => "nothing is due",
        108 => "too early",
        109 => "it is closed for ever",
        110 => "too few coins came along",
        111 => "no such session, or not its turn",
        112 => "too many sessions are live",
        113 => "the session pays too many workers already",
        114 => "the reserve is short: top the pool up",
        115 => "no close was started",
        116 => "a session is still live: retire it and wait for its grace",
        117 => "no such proposal",
        118 => "approved already",
        119 => "not approved by enough owners",
        120 => "a change that can't be",
        121 => "too many proposals wait",
        122 => "the release's epoch is not higher",
        123 => "the wrong sender",
        124 => "the grace is too short",
        _ => "see the virtual machine's exit codes",
    };
    format!("exit code {code}, {meaning}")
}

/// One thread is enough for a conversation with the chain.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// An address as people give it.
pub fn address(text: &str) -> Result<Address, String> {
    ton::parse_address(text)
}

/// Says on standard error what is being done.
pub fn progress(what: &str) {
    eprintln!("{what}");
}
