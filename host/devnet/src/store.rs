//! The chain on disk: one file, one atomic write a block, so that a process killed at any moment leaves a whole chain.
//!
//! The accounts are kept leaf by leaf; opening rebuilds both states from them and compares their hashes with those that the
//! head was made with. So a damaged folder is refused, not served. Messages that no block took yet are kept as of the last
//! block; a broadcast between two blocks may be lost, as any broadcast may.

use crate::chain::{Chain, Produced};
use crate::genesis::Genesis;
use crate::mail::Mail;
use crate::shard::Shard;
use crate::{ChainError, WHAT};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use ton::forms::Bag;
use ton::{Address, Cell, HashBytes};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, Lazy};
use tycho_types::models::{BlockRef, DepthBalanceInfo, ShardAccount, ShardAccounts, ShardStateUnsplit};

const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
const ACCOUNTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("accounts");
const TRANSACTIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("transactions");
/// Blocks by twice their number, the base chain's before the masterchain's.
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// Numbers of blocks without transactions, which are dropped once they are old.
const IDLE: TableDefinition<'_, u32, ()> = TableDefinition::new("idle");
/// Blocks without transactions that are kept.
const IDLE_KEPT: u32 = 2_000;
/// Keys and values of a table.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;
/// Version of this form.
const SCHEMA: u32 = 1;

/// A folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{}: {what}: {source}; is another chain running in this folder, or the disk full?", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// While doing what.
        what: &'static str,
        /// What failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// What is there is damaged, or of another version.
    #[error("{}: {what}; remove the folder to begin a new chain", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The chain can't be rebuilt.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// What a chain needs besides its accounts to go on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    what: String,
    schema: u32,
    seed: String,
    time: u32,
    offset: u32,
    master: Side,
    base: Side,
    mail: Mail,
    wishes: Vec<(Address, u64)>,
}

/// One shard without its accounts.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Side {
    state: Bag,
    root: HashBytes,
    last: BlockRef,
}

/// The file of a chain.
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens or makes the file in `folder`, which must exist.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("chain.redb");
        let database = Database::create(&path);
        let database = database.map_err(|e| StoreError::Io {
            path: path.clone(),
            what: "opening",
            source: Box::new(e.into()),
        })?;
        Ok(Store { path, database })
    }

    fn io<E: Into<redb::Error>>(&self, what: &'static str) -> impl FnOnce(E) -> StoreError + '_ {
        move |error| StoreError::Io { path: self.path.clone(), what, source: Box::new(error.into()) }
    }

    fn damaged(&self, what: impl ToString) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what: what.to_string() }
    }

    /// Writes everything that a block changed, at once. `offset`: seconds that the chain's clock is ahead.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn save(&self, chain: &Chain, produced: &Produced, offset: u32) -> Result<(), StoreError> {
        let head = serde_json::to_vec(&self.head(chain, offset)?).map_err(|e| self.damaged(e))?;
        self.write(&head, produced).map_err(self.io("writing"))
    }

    fn write(&self, head: &[u8], produced: &Produced) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(FACTS)?.insert("head", head)?;
        let mut accounts = write.open_table(ACCOUNTS)?;
        for (address, leaf) in &produced.accounts {
            match leaf.as_ref().and_then(|leaf| CellBuilder::build_from(leaf).ok()) {
                Some(cell) => accounts.insert(key(address, None).as_slice(), Boc::encode(cell).as_slice())?,
                None => accounts.remove(key(address, None).as_slice())?,
            };
        }
        let mut transactions = write.open_table(TRANSACTIONS)?;
        for (address, lt, cell) in &produced.transactions {
            transactions.insert(key(address, Some(*lt)).as_slice(), Boc::encode(cell).as_slice())?;
        }
        let mut blocks = write.open_table(BLOCKS)?;
        let seqno = produced.id.seqno;
        for (place, bytes) in (0..).zip(&produced.blocks) {
            blocks.insert(u64::from(seqno) * 2 + place, bytes.as_slice())?;
        }
        let mut idle = write.open_table(IDLE)?;
        if produced.transactions.is_empty() {
            idle.insert(seqno, ())?;
        }
        let old = seqno.saturating_sub(IDLE_KEPT);
        if idle.remove(old)?.is_some() {
            blocks.remove(u64::from(old) * 2)?;
            blocks.remove(u64::from(old) * 2 + 1)?;
        }
        drop((accounts, transactions, blocks, idle));
        write.commit()?;
        Ok(())
    }

    fn head(&self, chain: &Chain, offset: u32) -> Result<Head, ChainError> {
        Ok(Head {
            what: WHAT.into(),
            schema: SCHEMA,
            seed: hex::encode(chain.genesis().seed),
            time: chain.genesis().time,
            offset,
            master: side(&chain.master)?,
            base: side(&chain.base)?,
            mail: chain.mail.clone(),
            wishes: chain.wishes.clone(),
        })
    }

    /// The chain that the folder holds, and how far its clock is ahead; `None` where there is none yet.
    ///
    /// # Errors
    /// See [`StoreError`]; a state whose hash is not that of the head is damage.
    pub fn load(&self) -> Result<Option<(Chain, u32)>, StoreError> {
        let Some(head) = self.fact("head").map_err(self.io("reading"))? else { return Ok(None) };
        let head: Head = serde_json::from_slice(&head).map_err(|e| self.damaged(format!("its head: {e}")))?;
        if head.schema != SCHEMA {
            return Err(self.damaged(format!("its form is version {}, expected {SCHEMA}", head.schema)));
        }
        let mut seed = [0; 32];
        hex::decode_to_slice(&head.seed, &mut seed).map_err(|e| self.damaged(format!("its seed: {e}")))?;
        let leaves = self.all(ACCOUNTS).map_err(self.io("reading accounts"))?;
        let (mut master, mut base) = (ShardAccounts::new(), ShardAccounts::new());
        for (key, leaf) in &leaves {
            let (address, leaf) = self.leaf(key, leaf)?;
            let account = leaf.load_account().map_err(ChainError::from)?;
            let balance = account.map(|account| account.balance).unwrap_or_default();
            let accounts = if address.is_masterchain() { &mut master } else { &mut base };
            let extra = DepthBalanceInfo { split_depth: 0, balance };
            accounts.set(address.address, extra, &leaf).map_err(ChainError::from)?;
        }
        let (master, base) = (self.shard(&head.master, &master)?, self.shard(&head.base, &base)?);
        let mut chain = Chain::at(Genesis { seed, time: head.time }, master, base)?;
        chain.mail = head.mail;
        chain.wishes = head.wishes;
        for (key, cell) in self.all(TRANSACTIONS).map_err(self.io("reading transactions"))? {
            let (address, lt) = self.unkey(&key)?;
            chain.transactions.insert((address, lt), self.cell(&cell)?);
        }
        let blocks = [self.block(&chain, 0)?, self.block(&chain, 1)?];
        chain.resume(blocks)?;
        Ok(Some((chain, head.offset)))
    }

    fn block(&self, chain: &Chain, place: u64) -> Result<Vec<u8>, StoreError> {
        let number = u64::from(chain.seqno()) * 2 + place;
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(BLOCKS)?;
            Ok(table.get(number)?.map(|bytes| bytes.value().to_vec()))
        };
        read().map_err(self.io("reading blocks"))?.ok_or_else(|| self.damaged("the head's block is missing"))
    }

    fn leaf(&self, key: &[u8], leaf: &[u8]) -> Result<(Address, ShardAccount), StoreError> {
        let (address, _) = self.unkey(&[key, &[0; 8]].concat())?;
        let leaf =
            self.cell(leaf)?.parse::<ShardAccount>().map_err(|e| self.damaged(format!("an account: {e}")))?;
        Ok((address, leaf))
    }

    /// A shard's state from its accounts and the rest; its hash must be the head's.
    fn shard(&self, side: &Side, accounts: &ShardAccounts) -> Result<Shard, StoreError> {
        let mut state = side.state.0.parse::<ShardStateUnsplit>().map_err(ChainError::from)?;
        state.accounts = Lazy::new(accounts).map_err(ChainError::from)?;
        let root = CellBuilder::build_from(&state).map_err(ChainError::from)?;
        if *root.repr_hash() != side.root {
            let what =
                format!("its accounts have hash {}, the head was made with {}", root.repr_hash(), side.root);
            return Err(self.damaged(what));
        }
        Ok(Shard::new(state, root, side.last.clone()))
    }

    fn cell(&self, bytes: &[u8]) -> Result<Cell, StoreError> {
        Boc::decode(bytes).map_err(|e| self.damaged(format!("a bag of cells: {e}")))
    }

    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, redb::Error> {
        let table = match self.database.begin_read()?.open_table(FACTS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        Ok(table.get(name)?.map(|bytes| bytes.value().to_vec()))
    }

    fn all(&self, table: TableDefinition<'_, &[u8], &[u8]>) -> Result<Entries, redb::Error> {
        let table = self.database.begin_read()?.open_table(table)?;
        let entries = table.iter()?.map(|entry| {
            let (key, value) = entry?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        });
        entries.collect()
    }

    fn unkey(&self, key: &[u8]) -> Result<(Address, u64), StoreError> {
        let parts = (key.first(), key.get(1..33), key.get(33..41), key.len());
        let (Some(workchain), Some(account), Some(lt), 41) = parts else {
            return Err(self.damaged("a key has another length than an address and a time"));
        };
        let account = HashBytes::from_slice(account);
        let lt = lt.iter().fold(0, |lt, byte| lt << 8 | u64::from(*byte));
        Ok((Address::new(i8::from_be_bytes([*workchain]), account), lt))
    }
}

/// Workchain, account, and the logical time of a transaction: in this order all of an account stand together.
fn key(address: &Address, lt: Option<u64>) -> Vec<u8> {
    let mut key = address.workchain.to_be_bytes().to_vec();
    key.extend(address.address.0);
    key.extend(lt.into_iter().flat_map(u64::to_be_bytes));
    key
}

fn side(shard: &Shard) -> Result<Side, ChainError> {
    let mut state = shard.state.clone();
    state.accounts = Lazy::new(&ShardAccounts::new())?;
    let (root, last) = (*shard.root.repr_hash(), shard.last.clone());
    Ok(Side { state: Bag(CellBuilder::build_from(&state)?), root, last })
}
