//! The chain: blocks, time, messages between accounts. Pure: no clock, no files; a caller says what time it is.
//!
//! ```text
//! broadcast --+
//!             +--> mail --due--> execute on the TVM --> base block --> masterchain block --sign--> head
//! faucet -----+      ^------------- internal messages ------'
//! ```
//! Each masterchain block follows one block of the base chain. Nothing splits, nothing merges, configuration never changes.

use crate::ChainError;
use crate::genesis::{self, Genesis};
use crate::mail::{Letter, Mail};
use crate::prove;
use crate::shard::{Draft, Executed, Sealed, Setting, Shard};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque};
use ton::forms::{AccountState, Bag, ConfigInfo, Faults, ShardProof, Signature, SignedBlock};
use ton::wallet::Wallet;
use ton::{Address, Cell, HashBytes, Network, message};
use tycho_executor::{ExecutorParams, ParsedConfig};
use tycho_types::boc::Boc;
use tycho_types::cell::Lazy;
use tycho_types::models::{
    AccountState as State, Block, BlockId, BlockInfo, BlockRef, IntAddr, McBlockExtra, MsgInfo, OwnedMessage,
    ShardAccount, ShardFees, ShardHashes, ShardIdent, ShardStateUnsplit, ValidatorSet,
};

/// Most transactions in one block; what is left waits for the next.
const TRANSACTIONS_LIMIT: usize = 512;
/// States that questions can still be asked about, as blocks back from the head.
const RECENT: usize = 64;
/// Logical time advances by whole millions from block to block, as in TON.
const LT_STEP: u64 = 1_000_000;
/// Most payments that the faucet sends in one block.
const PAYMENTS_LIMIT: usize = 200;
/// Seconds for which the faucet's message is valid.
const PAYMENT_TTL: u32 = 600;

/// A masterchain block, and the states after it.
#[derive(Clone)]
struct Snapshot {
    signed: SignedBlock,
    master: Cell,
    base: Cell,
    base_block: Cell,
}

/// What a block changed: all that has to be kept for the chain to survive its process.
pub struct Produced {
    /// The masterchain block.
    pub id: BlockId,
    /// The base chain's block and the masterchain's, as bags of cells.
    pub blocks: [Vec<u8>; 2],
    /// The transactions: account, logical time, cell.
    pub transactions: Vec<(Address, u64, Cell)>,
    /// Accounts that changed, with their new leaf; `None` for those that are gone.
    pub accounts: Vec<(Address, Option<ShardAccount>)>,
}

/// A local test chain.
pub struct Chain {
    genesis: Genesis,
    network: Network,
    key: SigningKey,
    faucet: Wallet,
    validators: ValidatorSet,
    parsed: ParsedConfig,
    pub(crate) master: Shard,
    pub(crate) base: Shard,
    pub(crate) mail: Mail,
    pub(crate) wishes: Vec<(Address, u64)>,
    recent: VecDeque<Snapshot>,
    pub(crate) transactions: BTreeMap<(Address, u64), Cell>,
}

impl Chain {
    /// A chain at its zero state, with its first block made.
    ///
    /// # Errors
    /// If cells can't be built.
    pub fn new(genesis: Genesis) -> Result<Self, ChainError> {
        Ok(Chain::begin(genesis)?.0)
    }

    /// Like [`Chain::new`], with what has to be kept: the first block, and the accounts of the zero state.
    pub(crate) fn begin(genesis: Genesis) -> Result<(Self, Produced), ChainError> {
        let begun = genesis.begin()?;
        let start = |root: &Cell, shard| {
            let id = genesis::zero_id(shard, root);
            BlockRef { end_lt: 0, seqno: 0, root_hash: id.root_hash, file_hash: id.file_hash }
        };
        let master_ref = start(&begun.master_root, ShardIdent::MASTERCHAIN);
        let base_ref = start(&begun.base_root, ShardIdent::BASECHAIN);
        let master = Shard::new(begun.master, begun.master_root, master_ref);
        let base = Shard::new(begun.base, begun.base_root, base_ref);
        let time = genesis.time;
        let mut chain = Chain::at(genesis, master, base)?;
        let mut first = chain.produce(time)?;
        let faucet = chain.faucet.address().clone();
        let leaf = chain.account(&faucet)?;
        first.accounts.push((faucet, Some(leaf)));
        Ok((chain, first))
    }

    /// Goes on from the blocks of the head: the base chain's and the masterchain's.
    pub(crate) fn resume(&mut self, blocks: [Vec<u8>; 2]) -> Result<(), ChainError> {
        let [base, master] = blocks;
        let decode = |bytes: &[u8]| {
            Boc::decode(bytes).map_err(|e| ChainError::Config(format!("the head's block: {e}")))
        };
        let (base_block, root) = (decode(&base)?, decode(&master)?);
        let id = self.master.last.as_block_id(ShardIdent::MASTERCHAIN);
        let (start_lt, end_lt) = (0, self.master.last.end_lt);
        let signed = self.sign(&Sealed { id, root, bytes: master, start_lt, end_lt })?;
        let (master, base) = (self.master.root.clone(), self.base.root.clone());
        self.remember(Snapshot { signed, master, base, base_block });
        Ok(())
    }

    /// What the chain was made from.
    pub(crate) fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// A chain whose shards stand where they are told.
    pub(crate) fn at(genesis: Genesis, master: Shard, base: Shard) -> Result<Self, ChainError> {
        let config = genesis.config()?;
        Ok(Chain {
            network: genesis.network()?,
            key: genesis.validator(),
            faucet: genesis.faucet()?,
            validators: config.params.get_current_validator_set()?,
            parsed: ParsedConfig::parse(config, genesis.time)?,
            genesis,
            master,
            base,
            mail: Mail::default(),
            wishes: Vec::new(),
            recent: VecDeque::new(),
            transactions: BTreeMap::new(),
        })
    }

    /// What clients pin.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The zero state's id.
    pub fn zero_state(&self) -> BlockId {
        let Network { zero_root, zero_file, .. } = self.network;
        BlockId { shard: ShardIdent::MASTERCHAIN, seqno: 0, root_hash: zero_root, file_hash: zero_file }
    }

    /// The faucet's address.
    pub fn faucet(&self) -> &Address {
        self.faucet.address()
    }

    /// Time of the newest block, seconds since 1970.
    pub fn time(&self) -> u32 {
        self.master.state.gen_utime
    }

    /// Number of the newest masterchain block.
    pub fn seqno(&self) -> u32 {
        self.master.state.seqno
    }

    /// Sets what the network does to messages from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.mail.faults = faults;
    }

    /// Messages that wait for a block.
    pub fn waiting(&self) -> usize {
        self.mail.letters.len() + self.wishes.len()
    }

    /// Lets the faucet pay in the next block.
    pub fn pay(&mut self, to: Address, amount: u64) {
        self.wishes.push((to, amount));
    }

    /// Takes an external message for one of the next blocks.
    ///
    /// # Errors
    /// If it is none, or goes to a workchain that is not there.
    pub fn broadcast(&mut self, message: Cell) -> Result<(), ChainError> {
        let limit = ParsedConfig::DEFAULT_SIZE_LIMITS_CONFIG.max_ext_msg_size as usize;
        let length = Boc::encode(&message).len();
        if length > limit {
            return Err(ChainError::Message(format!("it has {length} bytes; expected at most {limit}")));
        }
        let parsed = message.parse::<OwnedMessage>().map_err(|e| ChainError::Message(e.to_string()))?;
        let MsgInfo::ExtIn(info) = parsed.info else {
            return Err(ChainError::Message("it is not external".into()));
        };
        let IntAddr::Std(to) = info.dst else {
            return Err(ChainError::Message("its address has no standard form".into()));
        };
        if !(-1..=0).contains(&to.workchain) {
            return Err(ChainError::Message(format!("there is no workchain {}", to.workchain)));
        }
        let seqno = self.seqno();
        self.mail.broadcast(Bag(message), to, seqno);
        Ok(())
    }

    /// An account's leaf in the newest state; an empty one where there is none.
    ///
    /// # Errors
    /// If the state is malformed, which it never is.
    pub fn account(&self, address: &Address) -> Result<ShardAccount, ChainError> {
        if address.is_masterchain() { &self.master } else { &self.base }.account(&address.address)
    }

    /// Coins of all accounts and coins under way, nanoTON; and the fees that validators took since the beginning.
    ///
    /// # Errors
    /// If a message is malformed, which it never is.
    pub fn coins(&self) -> Result<(u128, u128), ChainError> {
        let mut held = 0;
        let mut fees = 0;
        for shard in [&self.master, &self.base] {
            held += shard.state.total_balance.tokens.into_inner();
            fees += shard.state.total_validator_fees.tokens.into_inner();
        }
        for letter in &self.mail.letters {
            let (value, forwarding) = crate::shard::carried(&letter.message.0)?;
            held += value.tokens.into_inner() + forwarding.into_inner();
        }
        Ok((held, fees))
    }

    /// Makes a base block and a masterchain block at time `now`, which never goes back.
    ///
    /// # Errors
    /// If the executor fails inside, or coins appear or vanish: a defect of this program.
    pub fn produce(&mut self, now: u32) -> Result<Produced, ChainError> {
        let now = now.max(self.time());
        let seqno = self.seqno() + 1;
        self.post_payments(now)?;
        self.parsed.update_storage_prices(now)?;
        let start_lt = (self.master.state.gen_lt.max(self.base.state.gen_lt) / LT_STEP + 1) * LT_STEP;
        let params = self.params(now, start_lt);
        let mut drafts = (self.master.draft(start_lt), self.base.draft(start_lt));
        let executed = self.deliver(&params, seqno, &mut drafts)?;
        let (base, base_block) = self.seal_base(drafts.1, now, &params)?;
        self.base = base;
        let (master, master_block) = self.seal_master(drafts.0, now, &params, &base_block)?;
        self.master = master;
        let signed = self.sign(&master_block)?;
        let snapshot = Snapshot {
            signed,
            master: self.master.root.clone(),
            base: self.base.root.clone(),
            base_block: base_block.root.clone(),
        };
        self.remember(snapshot);
        self.report(master_block, base_block, executed)
    }

    fn params(&self, now: u32, lt: u64) -> ExecutorParams {
        let id = self.master.last.as_block_id(ShardIdent::MASTERCHAIN);
        let seed = Sha256::new().chain_update(id.root_hash.0).chain_update(now.to_be_bytes()).finalize();
        ExecutorParams {
            rand_seed: HashBytes(seed.into()),
            block_unixtime: now,
            block_lt: lt,
            prev_mc_block_id: Some(id),
            charge_action_fees_on_fail: true,
            strict_extra_currency: true,
            ..ExecutorParams::default()
        }
    }

    /// Delivers what is due, and what follows from it, up to the block's limit.
    fn deliver(
        &mut self,
        params: &ExecutorParams,
        seqno: u32,
        drafts: &mut (Draft, Draft),
    ) -> Result<Vec<Executed>, ChainError> {
        let mut executed = Vec::new();
        let mut queue = VecDeque::from(self.mail.due(seqno));
        while let Some(letter) = queue.pop_front() {
            if executed.len() >= TRANSACTIONS_LIMIT {
                queue.push_front(letter);
                break;
            }
            let setting = Setting { params, config: &self.parsed };
            let draft = if letter.to.is_masterchain() { &mut drafts.0 } else { &mut drafts.1 };
            let created_lt = letter.from.as_ref().map(|(_, lt)| *lt);
            let done = match draft.execute(&setting, &letter.to, &letter.message.0, created_lt) {
                Ok(Some(done)) => done,
                Ok(None) => {
                    self.mail.retry(letter, seqno);
                    continue;
                }
                // Anybody may send anything from outside; it must not stop the chain.
                Err(ChainError::Executor(_)) if created_lt.is_none() => continue,
                Err(error) => return Err(error),
            };
            for sent in &done.sent {
                self.post(sent, seqno)?;
            }
            executed.push(done);
            queue.extend(self.mail.due(seqno));
        }
        // What didn't fit comes first next time.
        let arrived = std::mem::take(&mut self.mail.letters);
        self.mail.letters = queue.into_iter().chain(arrived).collect();
        Ok(executed)
    }

    /// Posts a message that a transaction sent; those to the outside world end here.
    fn post(&mut self, sent: &Cell, seqno: u32) -> Result<(), ChainError> {
        let MsgInfo::Int(info) = sent.parse::<OwnedMessage>()?.info else { return Ok(()) };
        let (IntAddr::Std(from), IntAddr::Std(to)) = (info.src, info.dst) else {
            return Err(ChainError::Message(
                "an internal message has an address without standard form".into(),
            ));
        };
        self.mail.post(Bag(sent.clone()), (from, info.created_lt), to, seqno);
        Ok(())
    }

    /// Makes one message of the faucet out of all payments that wait.
    fn post_payments(&mut self, now: u32) -> Result<(), ChainError> {
        if self.wishes.is_empty() {
            return Ok(());
        }
        let count = self.wishes.len().min(PAYMENTS_LIMIT);
        let payments: Vec<_> = self.wishes.drain(..count).collect();
        let body = Cell::default();
        let messages = payments.iter().map(|(to, amount)| {
            Ok((message::internal(to, u128::from(*amount), false, None, body.clone())?, 3))
        });
        let messages: Vec<_> = messages.collect::<Result<_, ChainError>>()?;
        let transfer = self.faucet.transfer(self.faucet_sequence()?, now + PAYMENT_TTL, &messages)?;
        let to = self.faucet.address().clone();
        let due = self.seqno() + 1;
        // The faucet is a tool of tests: no fault holds its own message back.
        self.mail.letters.push(Letter { message: Bag(transfer), to, from: None, due, tried: 0 });
        Ok(())
    }

    fn faucet_sequence(&self) -> Result<u32, ChainError> {
        let account = self.account(self.faucet.address())?.load_account()?;
        let Some(State::Active(init)) = account.map(|account| account.state) else {
            return Err(ChainError::Config("the faucet's account is gone".into()));
        };
        let data = init.data.unwrap_or_default();
        let mut slice = data.as_slice()?;
        slice.skip_first(1, 0)?;
        Ok(slice.load_u32()?)
    }

    fn info(&self, now: u32) -> Result<BlockInfo, ChainError> {
        let (_, hash) = self.validators.compute_mc_subset(0, false).ok_or(ChainError::Validators)?;
        Ok(BlockInfo {
            gen_utime: now,
            gen_validator_list_hash_short: hash,
            gen_catchain_seqno: 0,
            min_ref_mc_seqno: self.seqno(),
            ..BlockInfo::default()
        })
    }

    fn seal_base(
        &self,
        draft: Draft,
        now: u32,
        params: &ExecutorParams,
    ) -> Result<(Shard, Sealed), ChainError> {
        let mut info = self.info(now)?;
        info.master_ref = Some(Lazy::new(&self.master.last)?);
        let master = self.master.last.clone();
        draft.seal(info, params.rand_seed, |state| {
            state.master_ref = Some(master);
            Ok(None)
        })
    }

    fn seal_master(
        &self,
        draft: Draft,
        now: u32,
        params: &ExecutorParams,
        base: &Sealed,
    ) -> Result<(Shard, Sealed), ChainError> {
        let described = genesis::description(&base.id, base.start_lt, base.end_lt, now);
        let shards = genesis::shard_hashes(&described)?;
        let balance = self.base.state.total_balance.clone();
        draft.seal(self.info(now)?, params.rand_seed, |state| dress_master(state, shards, balance))
    }

    fn sign(&self, block: &Sealed) -> Result<SignedBlock, ChainError> {
        let signature = self.key.sign(&Block::build_data_for_sign(&block.id)).to_bytes();
        let node = ton::node_id(&HashBytes(self.key.verifying_key().to_bytes()));
        let signatures = vec![Signature { node, signature: BASE64_STANDARD.encode(signature) }];
        Ok(SignedBlock { id: block.id, header: prove::header(&block.root)?, signatures })
    }

    fn remember(&mut self, snapshot: Snapshot) {
        self.recent.push_back(snapshot);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    fn report(
        &mut self,
        master: Sealed,
        base: Sealed,
        executed: Vec<Executed>,
    ) -> Result<Produced, ChainError> {
        let mut accounts = BTreeMap::new();
        let mut transactions = Vec::new();
        for done in executed {
            self.transactions.insert((done.address.clone(), done.lt), done.cell.clone());
            accounts.insert(done.address.clone(), ());
            transactions.push((done.address, done.lt, done.cell));
        }
        let leaves = accounts.into_keys().map(|address| {
            let leaf = self.account(&address)?;
            let there = leaf.load_account()?.is_some();
            Ok((address, there.then_some(leaf)))
        });
        let accounts = leaves.collect::<Result<_, ChainError>>()?;
        Ok(Produced { id: master.id, blocks: [base.bytes, master.bytes], transactions, accounts })
    }

    /// The newest masterchain block.
    pub fn head(&self) -> Option<&SignedBlock> {
        self.recent.back().map(|snapshot| &snapshot.signed)
    }

    fn snapshot(&self, block: &BlockId) -> Result<&Snapshot, ChainError> {
        let found = self.recent.iter().rev().find(|snapshot| snapshot.signed.id == *block);
        found.ok_or(ChainError::Gone(block.seqno))
    }

    /// An account's state at a recent masterchain block, with its proof.
    ///
    /// # Errors
    /// If the block is not among the recent ones.
    pub fn prove_account(&self, block: &BlockId, address: &Address) -> Result<AccountState, ChainError> {
        let at = self.snapshot(block)?;
        if address.is_masterchain() {
            let (state, account) = prove::account(&at.master, &address.address)?;
            return Ok(AccountState { shard: None, state, account });
        }
        let (state, account) = prove::account(&at.base, &address.address)?;
        let shard =
            ShardProof { master: prove::shard(&at.master, address)?, header: prove::header(&at.base_block)? };
        Ok(AccountState { shard: Some(shard), state, account })
    }

    /// The configuration at a recent masterchain block, with its proof.
    ///
    /// # Errors
    /// If the block is not among the recent ones.
    pub fn prove_config(&self, block: &BlockId) -> Result<ConfigInfo, ChainError> {
        Ok(ConfigInfo { state: prove::config(&self.snapshot(block)?.master)? })
    }

    /// The validators in the zero state, with their proof.
    ///
    /// # Errors
    /// If cells can't be built.
    pub fn prove_validators(&self) -> Result<Bag, ChainError> {
        prove::config(&self.genesis.begin()?.master_root)
    }

    /// Transactions of an account, newest first, from the one at `lt` on.
    pub fn transactions(&self, address: &Address, lt: u64, count: usize) -> Vec<Cell> {
        let range = (address.clone(), 0)..=(address.clone(), lt);
        self.transactions.range(range).rev().take(count).map(|(_, cell)| cell.clone()).collect()
    }
}

/// What only a masterchain state and block have.
fn dress_master(
    state: &mut ShardStateUnsplit,
    shards: ShardHashes,
    base_balance: tycho_types::models::CurrencyCollection,
) -> Result<Option<McBlockExtra>, ChainError> {
    let mut extra = state.load_custom()?.ok_or(ChainError::Validators)?;
    extra.shards = shards.clone();
    extra.after_key_block = false;
    extra.global_balance = state.total_balance.checked_add(&base_balance)?;
    state.set_custom(Some(&extra))?;
    Ok(Some(McBlockExtra { shards, fees: ShardFees::new(), ..McBlockExtra::default() }))
}
