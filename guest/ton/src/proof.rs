//! From a block's hash to an account, all the way by Merkle proofs.
//!
//! ```text
//! block id --header--> state root --shard--> shard block --header--> shard's state root --account--> account
//!                          `-------config--> configuration
//! ```
//! Each `read_*` walks cells and touches what it needs and nothing else. The checking side walks a proof with it; a server
//! that makes proofs walks the whole tree with the same function and keeps what was touched. So the two can't drift apart.
//!
//! Nothing here allocates by a number that it was told: every cell is there before it is walked, and depth is bounded by the
//! 256 bits of an account's key and the 60 levels of a shard's split.

use crate::forms::{AccountState, Bag, ConfigInfo};
use crate::{Address, Cell, HashBytes};
use tycho_types::cell::{CellBuilder, CellContext, CellSlice, CellType, DynCell, Load, Store};
use tycho_types::dict::{AugDict, Dict};
use tycho_types::error::Error;
use tycho_types::merkle::{MerkleProofRef, MerkleUpdate};
use tycho_types::models::{
    Account, BlockId, BlockInfo, BlockchainConfigParams, DepthBalanceInfo, IntAddr, OptionalAccount,
    ShardDescription, ShardIdent,
};
use tycho_types::prelude::LoadCell as _;

/// A proof does not show what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It is no Merkle proof, or one of something else.
    #[error(
        "{what}: the proof's root is {found}, expected {expected}; the server sent a proof of something else"
    )]
    Root {
        /// Proof of what.
        what: &'static str,
        /// Hash that is to be proven.
        expected: String,
        /// Hash that the proof is of, or what it is instead.
        found: String,
    },
    /// Cells are missing or malformed.
    #[error("{what}: {source}; the server's proof does not reach what it should show")]
    Cells {
        /// Proof of what.
        what: &'static str,
        /// What the cells lack.
        source: Error,
    },
    /// A field differs from what was asked for.
    #[error("{what}: found {found}, expected {expected}; the server answered another question")]
    Field {
        /// Which field.
        what: &'static str,
        /// What was found.
        found: String,
        /// What was asked for.
        expected: String,
    },
}

/// What a block's header says, and the state after it.
#[derive(Debug, Clone)]
pub struct Header {
    /// The network's number.
    pub global_id: i32,
    /// Which shard the block is of.
    pub shard: ShardIdent,
    /// Its number in the shard.
    pub seqno: u32,
    /// When it was made, seconds since 1970.
    pub gen_utime: u32,
    /// Logical time at its end.
    pub end_lt: u64,
    /// Number of the last key block before it: where configuration last changed.
    pub key_block: u32,
    /// Number of the validators' session.
    pub catchain_seqno: u32,
    /// Short hash of that session's validators.
    pub validators_hash: u32,
    /// Root of the state after it.
    pub state_root: HashBytes,
}

/// The leaf of an account in a shard's state. The account itself may be pruned.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The account's cell, or what a proof shows of it: its hash.
    pub account: Cell,
    /// Hash of its last transaction.
    pub last_hash: HashBytes,
    /// Logical time of its last transaction.
    pub last_lt: u64,
}

impl<'a> Load<'a> for Leaf {
    fn load_from(slice: &mut CellSlice<'a>) -> Result<Self, Error> {
        Ok(Leaf {
            account: slice.load_reference_cloned()?,
            last_hash: slice.load_u256()?,
            last_lt: slice.load_u64()?,
        })
    }
}

impl Store for Leaf {
    fn store_into(&self, builder: &mut CellBuilder, _: &dyn CellContext) -> Result<(), Error> {
        builder.store_reference(self.account.clone())?;
        builder.store_u256(&self.last_hash)?;
        builder.store_u64(self.last_lt)
    }
}

/// Reads a block's header and the root of the state after it.
///
/// # Errors
/// If the cells are no block, or pruned where they may not be.
pub fn read_header(block: &DynCell) -> Result<Header, Error> {
    const BLOCK: u32 = 0x11ef_55aa;
    let mut slice = block.as_slice()?;
    if slice.load_u32()? != BLOCK {
        return Err(Error::InvalidTag);
    }
    let global_id = slice.load_u32()? as i32;
    let info = slice.load_reference()?.parse::<BlockInfo>()?;
    // A shard's header holds this reference, and its reader accepts no pruned one.
    info.load_master_ref()?;
    slice.load_reference()?;
    let update = MerkleUpdate::load_from_cell(slice.load_reference()?)?;
    Ok(Header {
        global_id,
        shard: info.shard,
        seqno: info.seqno,
        gen_utime: info.gen_utime,
        end_lt: info.end_lt,
        key_block: info.prev_key_block_seqno,
        catchain_seqno: info.gen_catchain_seqno,
        validators_hash: info.gen_validator_list_hash_short,
        state_root: update.new_hash,
    })
}

/// The references of a shard's state (`shard_state#9023afe2`): accounts, and what only the masterchain has.
fn state_parts(state: &DynCell) -> Result<(&DynCell, Option<&DynCell>), Error> {
    const STATE: u32 = 0x9023_afe2;
    if state.as_slice()?.load_u32()? != STATE {
        return Err(Error::InvalidTag);
    }
    Ok((state.reference(1).ok_or(Error::CellUnderflow)?, state.reference(3)))
}

/// Finds an account in a shard's state.
///
/// # Errors
/// If the cells are no state, or pruned on the way.
pub fn read_account(state: &DynCell, account: &HashBytes) -> Result<Option<Leaf>, Error> {
    let (accounts, _) = state_parts(state)?;
    let accounts = accounts.parse::<AugDict<HashBytes, DepthBalanceInfo, Leaf>>()?;
    Ok(accounts.get(account)?.map(|(_, leaf)| leaf))
}

/// Finds the newest block of the shard that holds an account, in a masterchain state.
///
/// # Errors
/// If the cells are no masterchain state, or pruned on the way.
pub fn read_shard(state: &DynCell, address: &Address) -> Result<BlockId, Error> {
    let shards = Dict::<i32, Cell>::load_from(&mut extra(state)?)?;
    let mut node = shards.get(i32::from(address.workchain))?.ok_or(Error::InvalidData)?;
    let (mut shard, key) = (ShardIdent::new_full(i32::from(address.workchain)), address.prefix());
    loop {
        let mut slice = node.as_slice()?;
        if !slice.load_bit()? {
            return Ok(ShardDescription::load_from(&mut slice)?.as_block_id(shard));
        }
        let (left, right) = shard.split().ok_or(Error::InvalidData)?;
        let right_side = (key << shard.prefix_len()) >> 63 == 1;
        shard = if right_side { right } else { left };
        let next = slice.get_reference_cloned(u8::from(right_side))?;
        node = next;
    }
}

/// Reads the dictionary of configuration parameters of a masterchain state.
///
/// # Errors
/// If the cells are no masterchain state, or pruned on the way.
pub fn read_config(state: &DynCell) -> Result<Cell, Error> {
    let mut slice = extra(state)?;
    Dict::<i32, Cell>::load_from(&mut slice)?;
    slice.load_u256()?;
    slice.load_reference_cloned()
}

/// The masterchain's part of a state (`masterchain_state_extra#cc26`), behind its tag.
fn extra(state: &DynCell) -> Result<CellSlice<'_>, Error> {
    const EXTRA: u16 = 0xcc26;
    let mut slice = state_parts(state)?.1.ok_or(Error::CellUnderflow)?.as_slice()?;
    if slice.load_u16()? == EXTRA { Ok(slice) } else { Err(Error::InvalidTag) }
}

/// Opens a Merkle proof of the cell with hash `expected`; what it shows can be walked as if it was the cell.
///
/// # Errors
/// See [`ProofError`].
pub fn open<'a>(what: &'static str, bag: &'a Bag, expected: &HashBytes) -> Result<&'a DynCell, ProofError> {
    let root = |found: String| ProofError::Root { what, expected: expected.to_string(), found };
    if bag.0.cell_type() != CellType::MerkleProof {
        return Err(root("no Merkle proof".into()));
    }
    let proof = MerkleProofRef::load_from_cell(bag.0.as_ref())
        .map_err(|source| ProofError::Cells { what, source })?;
    if proof.hash != *expected {
        return Err(root(proof.hash.to_string()));
    }
    Ok(proof.cell.virtualize())
}

/// Checks a header against the block's id.
///
/// # Errors
/// See [`ProofError`].
pub fn header(bag: &Bag, id: &BlockId) -> Result<Header, ProofError> {
    let what = "block header";
    let block = open(what, bag, &id.root_hash)?;
    let header = read_header(block).map_err(|source| ProofError::Cells { what, source })?;
    if (header.shard, header.seqno) != (id.shard, id.seqno) {
        return Err(ProofError::Field {
            what: "shard and number of a block",
            found: format!("{} {}", header.shard, header.seqno),
            expected: format!("{} {}", id.shard, id.seqno),
        });
    }
    Ok(header)
}

/// What is proven of an account: the account if there is one, and its last transaction.
#[derive(Debug, Clone)]
pub struct Found {
    /// The account; absent where the state holds none.
    pub account: Option<Account>,
    /// Hash of its last transaction; zero where there is none.
    pub last_hash: HashBytes,
    /// Logical time of its last transaction; zero where there is none.
    pub last_lt: u64,
}

/// Checks an account's state against the root of a masterchain state.
///
/// # Errors
/// See [`ProofError`].
pub fn account(
    answer: &AccountState,
    address: &Address,
    state_root: &HashBytes,
) -> Result<Found, ProofError> {
    let root = shard_state_root(answer, address, state_root)?;
    let what = "account in its shard's state";
    let state = open(what, &answer.state, &root)?;
    let leaf = read_account(state, &address.address).map_err(|source| ProofError::Cells { what, source })?;
    match (leaf, &answer.account) {
        (None, None) => Ok(Found { account: None, last_hash: HashBytes::ZERO, last_lt: 0 }),
        (Some(leaf), Some(bag)) => matching(&leaf, &bag.0, address),
        (leaf, _) => Err(ProofError::Field {
            what: "account beside its proof",
            found: if leaf.is_some() { "none" } else { "one" }.into(),
            expected: if leaf.is_some() { "one" } else { "none" }.into(),
        }),
    }
}

/// The root of the state that holds the account: the masterchain's own, or that of a shard.
fn shard_state_root(
    answer: &AccountState,
    address: &Address,
    root: &HashBytes,
) -> Result<HashBytes, ProofError> {
    let field = |found: &str, expected: &str| ProofError::Field {
        what: "way to the account's shard",
        found: found.into(),
        expected: expected.into(),
    };
    match (&answer.shard, address.is_masterchain()) {
        (None, true) => Ok(*root),
        (Some(shard), false) => {
            let what = "shard in the masterchain's state";
            let state = open(what, &shard.master, root)?;
            let id = read_shard(state, address).map_err(|source| ProofError::Cells { what, source })?;
            Ok(header(&shard.header, &id)?.state_root)
        }
        (None, false) => Err(field("none", "a proof of the shard, for an account outside the masterchain")),
        (Some(_), true) => Err(field("a shard", "none, for an account of the masterchain")),
    }
}

/// The account's cell must have the proven hash, and say the address that was asked for.
fn matching(leaf: &Leaf, cell: &Cell, address: &Address) -> Result<Found, ProofError> {
    let what = "account beside its proof";
    let expected = leaf.account.hash(0);
    if cell.repr_hash() != expected {
        let (expected, found) = (expected.to_string(), cell.repr_hash().to_string());
        return Err(ProofError::Root { what, expected, found });
    }
    let parsed = cell.parse::<OptionalAccount>().map_err(|source| ProofError::Cells { what, source })?;
    if let Some(account) = &parsed.0
        && account.address != IntAddr::Std(address.clone())
    {
        let (found, expected) = (account.address.to_string(), address.to_string());
        return Err(ProofError::Field { what: "address of an account", found, expected });
    }
    Ok(Found { account: parsed.0, last_hash: leaf.last_hash, last_lt: leaf.last_lt })
}

/// Checks the configuration against the root of a masterchain state. It must be there whole: get-methods read any of it.
///
/// # Errors
/// See [`ProofError`].
pub fn config(answer: &ConfigInfo, state_root: &HashBytes) -> Result<BlockchainConfigParams, ProofError> {
    let what = "configuration in the masterchain's state";
    let state = open(what, &answer.state, state_root)?;
    let root = read_config(state).map_err(|source| ProofError::Cells { what, source })?;
    if !root.level_mask().is_empty() {
        return Err(ProofError::Cells { what, source: Error::UnexpectedExoticCell });
    }
    Ok(BlockchainConfigParams::from_raw(root))
}
