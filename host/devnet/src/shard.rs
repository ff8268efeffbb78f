//! One shard: its accounts, its state, its blocks. The masterchain is a shard with an extra.
//!
//! ```text
//! state n --execute(messages)--> changed accounts, transactions --seal--> block n+1 (header, value flow, state update, ..)
//! ```
//! A block has TON's own form, and its state update is the real difference of the two states. Left empty in it: the
//! descriptions of inbound and outbound messages, and the queue of outbound messages in the state. What a client proves
//! (header, state, accounts, transactions, configuration) doesn't reach there.

use crate::ChainError;
use std::collections::{BTreeMap, HashSet};
use ton::{Address, Cell, HashBytes};
use tycho_executor::{Executor, ExecutorParams, ParsedConfig, TxError};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, DynCell, Lazy, LazyExotic};
use tycho_types::dict::AugDict;
use tycho_types::merkle::MerkleUpdate;
use tycho_types::models::{
    AccountBlock, Block, BlockExtra, BlockId, BlockInfo, BlockRef, CurrencyCollection, DepthBalanceInfo,
    HashUpdate, McBlockExtra, MsgInfo, OwnedMessage, ShardAccount, ShardStateUnsplit, Transaction, ValueFlow,
};
use tycho_types::num::Tokens;

/// A block as it is kept and signed.
#[derive(Clone)]
pub(crate) struct Sealed {
    pub id: BlockId,
    pub root: Cell,
    pub bytes: Vec<u8>,
    pub start_lt: u64,
    pub end_lt: u64,
}

/// What one transaction did.
pub(crate) struct Executed {
    pub address: Address,
    pub lt: u64,
    pub cell: Cell,
    pub sent: Vec<Cell>,
}

/// A shard between two blocks.
#[derive(Clone)]
pub(crate) struct Shard {
    pub state: ShardStateUnsplit,
    pub root: Cell,
    pub last: BlockRef,
}

/// A block in the making.
pub(crate) struct Draft {
    shard: Shard,
    transactions: BTreeMap<HashBytes, Vec<(u64, CurrencyCollection, Lazy<Transaction>)>>,
    before: BTreeMap<HashBytes, HashBytes>,
    start_lt: u64,
    end_lt: u64,
    flow: ValueFlow,
}

/// What all transactions of a block share.
pub(crate) struct Setting<'a> {
    pub params: &'a ExecutorParams,
    pub config: &'a ParsedConfig,
}

/// An internal message's coins: what it carries, and what is left of its forwarding fee.
pub(crate) fn carried(message: &Cell) -> Result<(CurrencyCollection, Tokens), ChainError> {
    match message.parse::<OwnedMessage>()?.info {
        MsgInfo::Int(info) => Ok((info.value, info.fwd_fee)),
        MsgInfo::ExtIn(_) | MsgInfo::ExtOut(_) => Ok((CurrencyCollection::ZERO, Tokens::ZERO)),
    }
}

impl Shard {
    pub fn new(state: ShardStateUnsplit, root: Cell, last: BlockRef) -> Self {
        Shard { state, root, last }
    }

    /// An account's leaf; an empty one where there is none.
    pub fn account(&self, account: &HashBytes) -> Result<ShardAccount, ChainError> {
        match self.state.load_accounts()?.get(account)? {
            Some((_, leaf)) => Ok(leaf),
            None => crate::genesis::shard_account(None),
        }
    }

    /// Begins the next block.
    pub fn draft(&self, start_lt: u64) -> Draft {
        let flow = ValueFlow { from_prev_block: self.state.total_balance.clone(), ..ValueFlow::default() };
        Draft {
            shard: self.clone(),
            transactions: BTreeMap::new(),
            before: BTreeMap::new(),
            start_lt,
            end_lt: start_lt + 1,
            flow,
        }
    }
}

impl Draft {
    /// Executes one message. `None`: an external message that nobody accepted; it leaves no trace.
    pub fn execute(
        &mut self,
        setting: &Setting<'_>,
        to: &Address,
        message: &Cell,
        created_lt: Option<u64>,
    ) -> Result<Option<Executed>, ChainError> {
        let leaf = self.shard.account(&to.address)?;
        let min_lt = created_lt.map_or(0, |lt| lt + 1).max(self.start_lt + 1);
        let executor = Executor::new(setting.params, setting.config).with_min_lt(min_lt);
        let output = match executor.begin_ordinary(to, created_lt.is_none(), message, &leaf) {
            Ok(transaction) => transaction.commit().map_err(ChainError::executor)?,
            Err(TxError::Skipped) => return Ok(None),
            Err(TxError::Fatal(error)) => return Err(ChainError::executor(error)),
        };
        self.before.entry(to.address).or_insert(*leaf.account.inner().repr_hash());
        let mut accounts = self.shard.state.load_accounts()?;
        if output.new_state_meta.exists {
            let extra = DepthBalanceInfo { split_depth: 0, balance: output.new_state_meta.balance.clone() };
            accounts.set(to.address, extra, &output.new_state)?;
        } else {
            accounts.remove(to.address)?;
        }
        self.shard.state.accounts = Lazy::new(&accounts)?;
        self.shard.state.total_balance = accounts.root_extra().balance.clone();
        let lt = output.new_state.last_trans_lt;
        let sent: Vec<Cell> = output.transaction_meta.out_msgs.iter().map(|m| m.inner().clone()).collect();
        self.count(message, &sent, output.transaction_meta.total_fees, output.burned)?;
        self.end_lt = self.end_lt.max(output.transaction_meta.next_lt);
        let cell = output.transaction.inner().clone();
        let fees = CurrencyCollection::from(output.transaction_meta.total_fees);
        self.transactions.entry(to.address).or_default().push((lt, fees, output.transaction));
        Ok(Some(Executed { address: to.clone(), lt, cell, sent }))
    }

    /// Every coin that a transaction moved, took or burned.
    fn count(
        &mut self,
        message: &Cell,
        sent: &[Cell],
        fees: Tokens,
        burned: Tokens,
    ) -> Result<(), ChainError> {
        let (value, forwarding) = carried(message)?;
        self.flow.imported.try_add_assign(&value)?;
        self.flow.imported.try_add_assign_tokens(forwarding)?;
        self.flow.fees_collected.try_add_assign_tokens(forwarding)?;
        self.flow.fees_collected.try_add_assign_tokens(fees)?;
        self.flow.burned.try_add_assign_tokens(burned)?;
        for message in sent {
            let (value, forwarding) = carried(message)?;
            self.flow.exported.try_add_assign(&value)?;
            self.flow.exported.try_add_assign_tokens(forwarding)?;
        }
        Ok(())
    }

    /// Makes the block. `dress` gives the state and the block what only the masterchain has.
    pub fn seal(
        mut self,
        mut info: BlockInfo,
        rand_seed: HashBytes,
        dress: impl FnOnce(&mut ShardStateUnsplit) -> Result<Option<McBlockExtra>, ChainError>,
    ) -> Result<(Shard, Sealed), ChainError> {
        let old = self.shard.root.clone();
        let state = &mut self.shard.state;
        state.seqno += 1;
        state.gen_utime = info.gen_utime;
        state.gen_lt = self.end_lt;
        state.total_validator_fees.try_add_assign(&self.flow.fees_collected)?;
        self.flow.to_next_block = state.total_balance.clone();
        if !self.flow.validate()? {
            return Err(ChainError::Coins(format!("{:?}", self.flow)));
        }
        let custom = dress(state)?.map(|extra| Lazy::new(&extra)).transpose()?;
        let new = CellBuilder::build_from(&*state)?;
        info.seqno = state.seqno;
        info.shard = state.shard_ident;
        info.start_lt = self.start_lt;
        info.end_lt = self.end_lt;
        info.set_prev_ref_single(&self.shard.last);
        let account_blocks = Lazy::new(&self.account_blocks()?)?;
        let extra = BlockExtra { account_blocks, rand_seed, custom, ..BlockExtra::default() };
        let block = Block {
            global_id: self.shard.state.global_id,
            info: Lazy::new(&info)?,
            value_flow: Lazy::new(&self.flow)?,
            state_update: LazyExotic::new(&difference(&old, &new)?)?,
            out_msg_queue_updates: None,
            extra: Lazy::new(&extra)?,
        };
        let root = CellBuilder::build_from(&block)?;
        let bytes = Boc::encode(&root);
        let (root_hash, file_hash) = (*root.repr_hash(), Boc::file_hash(&bytes));
        let id = BlockId { shard: info.shard, seqno: info.seqno, root_hash, file_hash };
        self.shard.root = new;
        self.shard.last = BlockRef { end_lt: self.end_lt, seqno: info.seqno, root_hash, file_hash };
        Ok((self.shard, Sealed { id, root, bytes, start_lt: self.start_lt, end_lt: self.end_lt }))
    }

    fn account_blocks(&self) -> Result<AugDict<HashBytes, CurrencyCollection, AccountBlock>, ChainError> {
        let mut blocks = AugDict::new();
        for (account, list) in &self.transactions {
            let mut transactions: AugDict<u64, CurrencyCollection, Lazy<Transaction>> = AugDict::new();
            for (lt, fees, transaction) in list {
                transactions.set(*lt, fees, transaction)?;
            }
            let new = *self.shard.account(account)?.account.inner().repr_hash();
            let old = self.before.get(account).copied().unwrap_or_default();
            let fees = transactions.root_extra().clone();
            let state_update = Lazy::new(&HashUpdate { old, new })?;
            blocks.set(*account, fees, AccountBlock { account: *account, transactions, state_update })?;
        }
        Ok(blocks)
    }
}

/// The difference of two states: cells that are new, and where old ones stay.
fn difference(old: &Cell, new: &Cell) -> Result<MerkleUpdate, ChainError> {
    let known = changed(old.as_ref(), new.as_ref());
    Ok(MerkleUpdate::create(old.as_ref(), new.as_ref(), known).build()?)
}

/// Old cells down to where both trees are the same. Costs what changed, not what there is. Where a subtree moved to another
/// place it may be taken for new, which makes the difference longer and not wrong.
fn changed(old: &DynCell, new: &DynCell) -> HashSet<HashBytes> {
    let mut known = HashSet::new();
    let mut waiting = vec![(old, Some(new))];
    while let Some((old, new)) = waiting.pop() {
        let same = new.is_some_and(|new| new.repr_hash() == old.repr_hash());
        if known.insert(*old.repr_hash()) && !same {
            let others = (0..).map(|place| new.and_then(|new| new.reference(place)));
            waiting.extend(old.references().zip(others));
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use crate::{Chain, Genesis};
    use ton::{Address, HashBytes};
    use tycho_types::boc::Boc;
    use tycho_types::models::{AccountBlock, Block};

    #[test]
    fn a_block_carries_the_difference_of_its_states_and_every_transaction() {
        let mut chain = Chain::new(Genesis { seed: [3; 32], time: 4_000_000_000 }).unwrap();
        for round in 0..40u8 {
            chain.pay(Address::new(0, HashBytes([round.wrapping_mul(89) % 32; 32])), 1_000_000_000);
            let before = [chain.base.root.clone(), chain.master.root.clone()];
            let produced = chain.produce(4_000_000_000 + u32::from(round) * 1000).unwrap();
            let after = [&chain.base.root, &chain.master.root];
            for place in 0..2 {
                let block = Boc::decode(&produced.blocks[place]).unwrap();
                let block = block.parse::<Block>().unwrap();
                let update = block.load_state_update().unwrap();
                assert_eq!(
                    update.apply(&before[place]).unwrap(),
                    *after[place],
                    "round {round}, block {place}"
                );
                assert!(block.load_value_flow().unwrap().validate().unwrap());
            }
            let block = Boc::decode(&produced.blocks[0]).unwrap().parse::<Block>().unwrap();
            let accounts = block.load_extra().unwrap().account_blocks.load().unwrap();
            let count: usize = accounts
                .values()
                .map(|entry| -> usize {
                    let (_, block): (_, AccountBlock) = entry.unwrap();
                    block.transactions.values().count()
                })
                .sum();
            assert_eq!(count, produced.transactions.len());
        }
    }
}
