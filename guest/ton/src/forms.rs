//! What goes over the wire: the questions and answers of a lite server, as JSON with BoCs in base64.
//!
//! Named after lite_api.tl: `masterchainInfo`, `blockHeader`, `accountState`, `configInfo`, `transactionList`, `sendMsgStatus`.
//! A binary lite server gives the same parts, so that a client for it fills the same structures.

use serde::{Deserialize, Serialize};
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::models::{BlockId, StdAddr};

/// A bag of cells: base64 in JSON. Decoding bounds what it allocates by the length of the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bag(#[serde(with = "tycho_types::boc::Boc")] pub Cell);

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// Which network, and its newest masterchain block without proof.
    Info,
    /// The newest masterchain block with a number above `seqno`; waits up to `wait_ms` for one, else the newest there is.
    Head {
        /// Number above which a block is wanted.
        seqno: u32,
        /// Milliseconds to wait.
        wait_ms: u32,
    },
    /// The validators of the pinned zero state.
    Validators,
    /// The configuration at a masterchain block.
    Config {
        /// That block.
        block: BlockId,
    },
    /// An account's state at a masterchain block.
    Account {
        /// That block.
        block: BlockId,
        /// Whose state.
        address: StdAddr,
    },
    /// Transactions of an account, newest first, from the one with this time and hash.
    Transactions {
        /// Whose.
        address: StdAddr,
        /// Logical time of the newest one wanted.
        lt: u64,
        /// At most this many.
        count: u32,
    },
    /// Broadcasts an external message.
    Send {
        /// The message.
        message: Bag,
    },
    /// Only a local test chain answers this: development and tests.
    Control(Control),
}

/// Orders that only a local test chain takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// Pays `amount` nanoTON to `address` from the faucet, in one of the next blocks.
    Faucet {
        /// Who is paid.
        address: StdAddr,
        /// How much, nanoTON.
        amount: u64,
    },
    /// Moves the chain's clock ahead, for good, and produces a block.
    Advance {
        /// Seconds.
        seconds: u32,
    },
    /// Produces blocks now.
    Produce {
        /// How many.
        blocks: u32,
    },
    /// What the network does to messages from now on.
    Faults(Faults),
    /// Facts about the chain.
    Facts,
}

/// What the local chain's network does to messages. All zero: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// How many times more an external message is delivered. TON promises no less; internal messages come exactly once.
    pub duplicate_externals: u32,
    /// Blocks by which each message is held back.
    pub delay_blocks: u32,
    /// Whether messages are shuffled. Between the same two accounts they keep their order, as TON promises.
    pub reorder: bool,
    /// Of how many external messages one is lost; 0: none.
    pub lose_one_in: u32,
    /// Seed of the above, so that a run can be repeated.
    pub seed: u64,
}

/// An answer, or what was wrong with the question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Question::Info`].
    Info(Info),
    /// To [`Question::Head`].
    Head(SignedBlock),
    /// To [`Question::Validators`]: Merkle proof of the zero state down to its configuration.
    Validators(Bag),
    /// To [`Question::Config`].
    Config(ConfigInfo),
    /// To [`Question::Account`].
    Account(Box<AccountState>),
    /// To [`Question::Transactions`].
    Transactions(Vec<Bag>),
    /// To [`Question::Send`]: taken for broadcast, nothing more.
    Sent,
    /// To [`Question::Control`].
    Done(serde_json::Value),
    /// The server can't answer.
    Refused(String),
}

/// `liteServer.masterchainInfo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Info {
    /// What the server says it is; a local chain says that it is one.
    pub what: String,
    /// The network's number, as in configuration parameter 19.
    pub global_id: i32,
    /// Its zero state: number 0.
    pub zero_state: BlockId,
    /// Its newest masterchain block.
    pub head: BlockId,
}

/// `liteServer.blockHeader` with the signatures of `liteServer.signatureSet`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedBlock {
    /// The block.
    pub id: BlockId,
    /// Merkle proof of the block: its header and the hash of the state after it.
    pub header: Bag,
    /// Signatures of validators.
    pub signatures: Vec<Signature>,
}

/// A validator's signature of a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Signature {
    /// The validator's short id: SHA-256 of its key in TL form.
    pub node: HashBytes,
    /// Ed25519 signature, 64 bytes in base64.
    pub signature: String,
}

/// `liteServer.configInfo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigInfo {
    /// Merkle proof of the masterchain state down to every configuration parameter.
    pub state: Bag,
}

/// `liteServer.accountState`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountState {
    /// The masterchain state, down to the description of the account's shard; absent for accounts of the masterchain.
    pub shard: Option<ShardProof>,
    /// The shard's state, down to the account.
    pub state: Bag,
    /// The account itself; absent where there is none.
    pub account: Option<Bag>,
}

/// From the masterchain's state to a shard's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShardProof {
    /// Merkle proof of the masterchain state down to the shard's description.
    pub master: Bag,
    /// Merkle proof of the shard's block: its header and the hash of the state after it.
    pub header: Bag,
}
