//! Why a party doesn't go on, and whose fault that is.

use crate::error::VoucherError;
use crate::price::TooMuch;
use crate::voucher::Address;

/// What client, proxy and worker refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A voucher that is none.
    #[error(transparent)]
    Voucher(#[from] VoucherError),
    /// A price that no account could pay.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// The pool doesn't name this boot's key.
    #[error("this boot's session is not registered; the owner sends it to the pool")]
    NotRegistered,
    /// Another session was registered.
    #[error("session {epoch} is over; start again, and the owner registers the new key")]
    SessionOver {
        /// Of the session.
        epoch: u32,
    },
    /// The chain was not seen for too long to promise money by.
    #[error("the pool was seen {age} s ago, {limit} s are allowed; look why no newer block is proven")]
    StaleView {
        /// Seconds.
        age: u64,
        /// Seconds.
        limit: u32,
    },
    /// The vault pays somebody else.
    #[error("vault {vault} pays pool {pool}, not this one; open a vault for this pool")]
    NotOurVault {
        /// The vault.
        vault: Address,
        /// What it pays.
        pool: Address,
    },
    /// No proven view of the vault yet.
    #[error("vault {vault} was not seen on the chain; open it, then wait for a block")]
    UnknownVault {
        /// The vault.
        vault: Address,
    },
    /// The client takes its money out.
    #[error("vault {vault} closes too soon to claim from it; open a new one")]
    VaultCloses {
        /// The vault.
        vault: Address,
    },
    /// A cap for another network or session, or by another key.
    #[error(
        "the cap of vault {vault} is not by its client for this session and network; sign one for this session"
    )]
    ForeignCap {
        /// The vault.
        vault: Address,
    },
    /// A cap that takes back what an earlier one allowed.
    #[error("the cap of vault {vault} is {found} nanoTON after one of {had}; caps only grow")]
    LowerCap {
        /// The vault.
        vault: Address,
        /// nanoTON.
        had: u64,
        /// nanoTON.
        found: u64,
    },
    /// The cap ends before it could be claimed.
    #[error("the cap of vault {vault} ends at {valid_until}, {needed} is needed; sign one that lasts longer")]
    CapExpires {
        /// The vault.
        vault: Address,
        /// Unix seconds.
        valid_until: u32,
        /// Unix seconds.
        needed: u64,
    },
    /// The cap doesn't cover the request.
    #[error("the cap of vault {vault} is {found} nanoTON, {need} are needed; sign a higher one")]
    CapTooLow {
        /// The vault.
        vault: Address,
        /// nanoTON.
        need: u64,
        /// nanoTON.
        found: u64,
    },
    /// The vault doesn't hold what the cap allows.
    #[error("vault {vault} ever held {found} nanoTON, {need} are needed; top it up")]
    DepositTooLow {
        /// The vault.
        vault: Address,
        /// nanoTON.
        need: u64,
        /// nanoTON.
        found: u64,
    },
    /// The pot couldn't pay the worker.
    #[error(
        "{promised} of {funded} nanoTON of the pot are promised, {fee} more are needed; the owner allots more"
    )]
    PotShort {
        /// nanoTON.
        promised: u64,
        /// nanoTON.
        funded: u64,
        /// nanoTON.
        fee: u64,
    },
    /// The contract's list of workers is full.
    #[error("this session can pay no further worker than it has, {worker} is new; shard the pool")]
    TooManyWorkers {
        /// The worker.
        worker: Address,
    },
    /// A number that is in use.
    #[error("request {id} is open already; use a new number")]
    TwiceTheSameRequest {
        /// Of the request.
        id: u64,
    },
    /// A number that is not in use.
    #[error("request {id} is not open: it was settled, or never reserved")]
    NoSuchRequest {
        /// Of the request.
        id: u64,
    },
    /// The client's own limit.
    #[error("{what}: {need} nanoTON are needed, {limit} are allowed; raise the limit, or wait")]
    OverLimit {
        /// Which limit.
        what: &'static str,
        /// nanoTON.
        need: u64,
        /// nanoTON.
        limit: u64,
    },
    /// A session that nobody appraised.
    #[error("session key {key} was not attested on this connection; connect again and appraise")]
    NotAttested {
        /// In hexadecimal.
        key: String,
    },
    /// The proxy charges what it can't.
    #[error("{what}: {found}, at most {expected} expected; leave this proxy")]
    Overcharged {
        /// What was compared.
        what: &'static str,
        /// nanoTON.
        found: u64,
        /// nanoTON.
        expected: u64,
    },
    /// The receipt is of another request, vault, network or price.
    #[error("the receipt's {field} is not that of the request; leave this proxy")]
    WrongReceipt {
        /// The field.
        field: &'static str,
    },
    /// The proxy owes for earlier jobs.
    #[error(
        "{owed} nanoTON of delivered work are not vouched for, {credit} are given on credit; ask for the payout"
    )]
    Unpaid {
        /// nanoTON.
        owed: u64,
        /// nanoTON.
        credit: u64,
    },
    /// A payout for another network or worker.
    #[error("a payout of pool {pool} names worker {worker} or another network; refuse further jobs")]
    ForeignPayout {
        /// The pool.
        pool: Address,
        /// Whom it names.
        worker: Address,
    },
    /// A payout that takes back what an earlier one promised.
    #[error("the payout is {found} nanoTON after one of {had}; totals only grow: refuse further jobs")]
    LowerPayout {
        /// nanoTON.
        had: u64,
        /// nanoTON.
        found: u64,
    },
    /// The pool gives too little time to cash vouchers of a session that ended.
    #[error("the pool's grace is {grace} s, {least} s are needed; take jobs from another pool")]
    ShortGrace {
        /// Seconds.
        grace: u32,
        /// Seconds.
        least: u32,
    },
}

impl Refused {
    /// Whether the other party did what a right one never does. What a peer can put right, what one's own host did, and
    /// what lies in the chain is nobody's fault.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Self::Voucher(error) => error.is_peer_fault(),
            Self::ForeignCap { .. } | Self::LowerCap { .. } | Self::TwiceTheSameRequest { .. } => true,
            Self::Overcharged { .. } | Self::WrongReceipt { .. } | Self::ForeignPayout { .. } => true,
            Self::LowerPayout { .. } | Self::Unpaid { .. } | Self::NotAttested { .. } => true,
            Self::TooMuch(_) | Self::NotRegistered | Self::SessionOver { .. } | Self::StaleView { .. } => {
                false
            }
            Self::NotOurVault { .. } | Self::UnknownVault { .. } | Self::VaultCloses { .. } => false,
            Self::CapExpires { .. } | Self::CapTooLow { .. } | Self::DepositTooLow { .. } => false,
            Self::PotShort { .. } | Self::TooManyWorkers { .. } | Self::NoSuchRequest { .. } => false,
            Self::OverLimit { .. } | Self::ShortGrace { .. } => false,
        }
    }
}
