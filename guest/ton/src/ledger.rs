//! The trait, and the values that only proof checking can make.

use crate::get::{self, Arg, GetError, Values};
use crate::link::LinkError;
use crate::proof::{Found, Header, ProofError};
use crate::transaction::ProvenTransaction;
use crate::trust::{Network, TrustError};
use crate::{Address, Cell, HashBytes};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tycho_types::models::{Account, AccountState, BlockId, BlockchainConfigParams, StateInit};

/// What a ledger answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// A ledger as a proof-checking lite client sees it.
///
/// About liveness: a proven block is *genuine*, not *fresh*; whoever controls the network can show an old head for ever. The
/// one proof that a head is young is that its state shows something that did not exist before: register a key made at this
/// boot, and wait with [`shown`] until the proven account has it. Until then [`ProvenBlock::gen_utime`] is a lower bound of
/// the present and nothing more.
pub trait Ledger: Send + Sync {
    /// The pinned network.
    fn network(&self) -> &Network;

    /// The newest masterchain block that can be had; never older than one that was given out before.
    fn head(&self) -> Answer<'_, ProvenBlock>;

    /// Waits up to `within` for a masterchain block with a number above `seqno`. `None`: there was none in that time.
    fn head_after(&self, seqno: u32, within: Duration) -> Answer<'_, Option<ProvenBlock>>;

    /// An account's state at [`Ledger::head`]. That there is no such account is proven too.
    fn account<'a>(&'a self, address: &'a Address) -> Answer<'a, ProvenAccount>;

    /// Transactions of an account after logical time `since_lt`, newest first, at most `at_most` of them (up to 256). Each is
    /// chained to the proven state by the hash in its successor. Older ones than asked for are not looked at.
    fn transactions<'a>(
        &'a self,
        of: &'a ProvenAccount,
        since_lt: u64,
        at_most: usize,
    ) -> Answer<'a, Vec<ProvenTransaction>>;

    /// Broadcasts an external message. That this succeeds means nothing but that somebody took it.
    fn send<'a>(&'a self, message: &'a Cell) -> Answer<'a, ()>;
}

/// Waits until an account's last transaction is later than `since_lt`, up to `within`. `None`: nothing happened in that time.
///
/// # Errors
/// See [`LedgerError`].
pub async fn changed(
    ledger: &dyn Ledger,
    address: &Address,
    since_lt: u64,
    within: Duration,
) -> Result<Option<ProvenAccount>, LedgerError> {
    let later = |account: &ProvenAccount| (account.last_lt() > since_lt).then(|| account.clone());
    shown(ledger, address, within, later).await
}

/// Waits until an account's proven state shows something, up to `within`; `None`: it didn't in that time.
///
/// With something that did not exist before this boot, such as a key, this is the proof that the chain that is shown is
/// alive: see [`Ledger`].
///
/// # Errors
/// See [`LedgerError`].
pub async fn shown<T: Send>(
    ledger: &dyn Ledger,
    address: &Address,
    within: Duration,
    what: impl Fn(&ProvenAccount) -> Option<T> + Send + Sync,
) -> Result<Option<T>, LedgerError> {
    let until = Instant::now() + within;
    loop {
        let account = ledger.account(address).await?;
        if let Some(found) = what(&account) {
            return Ok(Some(found));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        ledger.head_after(account.block().seqno(), left).await?;
    }
}

/// Why the ledger gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The server can't be reached, or does not speak as it should.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There is nobody to ask.
    #[error("no server is configured; name at least one")]
    NoServer,
    /// The server said no.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server answered another question than the one that was asked.
    #[error("the server answered {found} to a question about {asked}")]
    Answer {
        /// What was asked.
        asked: &'static str,
        /// What came.
        found: &'static str,
    },
    /// A block or the validators can't be believed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A state can't be believed.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// What was to be sent is no external message, or too large.
    #[error("a message of {found} can't be sent; expected an external message of at most {limit} bytes")]
    Message {
        /// What it is.
        found: String,
        /// The limit, bytes.
        limit: usize,
    },
}

impl LedgerError {
    /// Whether the server lied or broke the rules, as opposed to being away, busy, or asked wrongly.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            LedgerError::Link(error) => error.is_peer_fault(),
            LedgerError::NoServer | LedgerError::Refused(_) | LedgerError::Message { .. } => false,
            LedgerError::Answer { .. } | LedgerError::Proof(_) => true,
            LedgerError::Trust(error) => match error {
                // A server may be slow to hear of a block; that alone is no lie.
                TrustError::Behind { .. } => false,
                TrustError::Proof(_)
                | TrustError::Network { .. }
                | TrustError::Signatures { .. }
                | TrustError::Signature { .. }
                | TrustError::Fork(_) => true,
            },
        }
    }
}

/// A masterchain block that its validators signed. Made by [`crate::Trust::accept`] only.
#[derive(Debug, Clone)]
pub struct ProvenBlock {
    id: BlockId,
    gen_utime: u32,
    end_lt: u64,
    key_block: u32,
    state_root: HashBytes,
}

impl ProvenBlock {
    pub(crate) fn new(id: BlockId, header: &Header) -> Self {
        let Header { gen_utime, end_lt, key_block, state_root, .. } = *header;
        ProvenBlock { id, gen_utime, end_lt, key_block, state_root }
    }

    /// Its id.
    pub fn id(&self) -> &BlockId {
        &self.id
    }

    /// Its number.
    pub fn seqno(&self) -> u32 {
        self.id.seqno
    }

    /// When its validators say it was made, seconds since 1970.
    pub fn gen_utime(&self) -> u32 {
        self.gen_utime
    }

    /// Logical time at its end.
    pub fn end_lt(&self) -> u64 {
        self.end_lt
    }

    /// Number of the last key block before it: where configuration last changed.
    pub fn key_block(&self) -> u32 {
        self.key_block
    }

    /// Root of the masterchain's state after it.
    pub fn state_root(&self) -> &HashBytes {
        &self.state_root
    }
}

/// An account's state, proven to a masterchain block.
#[derive(Debug, Clone)]
pub struct ProvenAccount {
    block: ProvenBlock,
    config: Arc<BlockchainConfigParams>,
    address: Address,
    found: Found,
}

impl ProvenAccount {
    pub(crate) fn new(
        block: ProvenBlock,
        config: Arc<BlockchainConfigParams>,
        address: Address,
        found: Found,
    ) -> Self {
        ProvenAccount { block, config, address, found }
    }

    /// The block that it is proven to.
    pub fn block(&self) -> &ProvenBlock {
        &self.block
    }

    /// Whose state it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether there is such an account: one that holds coins or was deployed.
    pub fn exists(&self) -> bool {
        self.found.account.is_some()
    }

    /// The whole account, where there is one.
    pub fn account(&self) -> Option<&Account> {
        self.found.account.as_ref()
    }

    /// What it holds, nanoTON.
    pub fn balance(&self) -> u128 {
        self.found.account.as_ref().map_or(0, |account| account.balance.tokens.into_inner())
    }

    /// Code and data; absent where it is not deployed, frozen or gone.
    fn active(&self) -> Option<&StateInit> {
        match &self.found.account.as_ref()?.state {
            AccountState::Active(init) => Some(init),
            AccountState::Uninit | AccountState::Frozen(_) => None,
        }
    }

    /// Its code, where it is deployed.
    pub fn code(&self) -> Option<&Cell> {
        self.active()?.code.as_ref()
    }

    /// Hash of its code, where it is deployed.
    pub fn code_hash(&self) -> Option<HashBytes> {
        Some(*self.code()?.repr_hash())
    }

    /// Its data, where it is deployed.
    pub fn data(&self) -> Option<&Cell> {
        self.active()?.data.as_ref()
    }

    /// Logical time of its last transaction; 0 where there was none.
    pub fn last_lt(&self) -> u64 {
        self.found.last_lt
    }

    /// Hash of its last transaction; zero where there was none.
    pub fn last_hash(&self) -> &HashBytes {
        &self.found.last_hash
    }

    /// The network's configuration at that block.
    pub fn config(&self) -> &BlockchainConfigParams {
        &self.config
    }

    /// Runs a get-method here, on this state and at this block's time, with bounded gas.
    ///
    /// # Errors
    /// See [`GetError`].
    pub fn get(&self, method: &str, args: &[Arg]) -> Result<Values, GetError> {
        let account = self.found.account.as_ref().ok_or(GetError::NoCode)?;
        get::run(account, &self.config, self.block.gen_utime, method, args)
    }
}
