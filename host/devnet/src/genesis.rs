//! How a local chain begins: main net's prices and limits, one validator, one rich wallet.
//!
//! `res/config.boc` holds the configuration of TON's main net at masterchain block 52956904 without its validators and
//! proposals, as `@ton/sandbox` 0.41.0 ships it (MIT, `slimConfig`); so both see the same prices. Changed here: the
//! network's number (parameter 19), the description of workchain 0 (12: main net's newer form is unknown to tycho-types
//! 0.3.6) and the validators (34). Everything is a function of [`Genesis`], so that a chain can be made twice.

use crate::ChainError;
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use std::num::NonZeroU16;
use ton::wallet::Wallet;
use ton::{Address, Cell, HashBytes, Network};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, Lazy};
use tycho_types::dict::{AugDict, Dict};
use tycho_types::models::{
    Account, AccountState, BlockId, BlockchainConfig, BlockchainConfigParams, ConfigParam34,
    CurrencyCollection, DepthBalanceInfo, IntAddr, McStateExtra, OptionalAccount, ShardAccount,
    ShardAccounts, ShardDescription, ShardHashes, ShardIdent, ShardStateUnsplit, StateInit, StorageInfo,
    StorageUsed, ValidatorDescription, ValidatorInfo, ValidatorSet, WorkchainDescription, WorkchainFormat,
    WorkchainFormatBasic,
};
use tycho_types::num::Tokens;

/// Configuration parameter 19 of every local chain: never that of a public network (-239 main, -3 test).
pub const GLOBAL_ID: i32 = 0x4c4f43;
/// What the faucet begins with, nanoTON: five billion TON.
pub const FAUCET_BALANCE: u128 = 5_000_000_000_000_000_000;

/// What a chain is made from.
#[derive(Clone)]
pub struct Genesis {
    /// Seed of the validator's and the faucet's key. Who knows it owns the chain.
    pub seed: [u8; 32],
    /// Time of the zero state, seconds since 1970.
    pub time: u32,
}

/// The beginning: two zero states and what signs.
pub(crate) struct Beginning {
    pub master: ShardStateUnsplit,
    pub base: ShardStateUnsplit,
    pub master_root: Cell,
    pub base_root: Cell,
}

impl Genesis {
    fn key(&self, what: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"chrysalis local test chain ")
            .chain_update(what)
            .chain_update(self.seed)
            .finalize()
            .into()
    }

    /// The only validator's key.
    pub(crate) fn validator(&self) -> SigningKey {
        SigningKey::from_bytes(&self.key("validator"))
    }

    /// The faucet: a wallet that holds every coin at the beginning.
    ///
    /// # Errors
    /// If its cells can't be built.
    pub fn faucet(&self) -> Result<Wallet, ChainError> {
        Ok(Wallet::from_seed(&self.key("faucet"), GLOBAL_ID)?)
    }

    /// The network that the chain is: what its clients pin.
    ///
    /// # Errors
    /// If cells can't be built.
    pub fn network(&self) -> Result<Network, ChainError> {
        let zero = zero_id(ShardIdent::MASTERCHAIN, &self.begin()?.master_root);
        Ok(Network { global_id: GLOBAL_ID, zero_root: zero.root_hash, zero_file: zero.file_hash })
    }

    /// The zero states.
    pub(crate) fn begin(&self) -> Result<Beginning, ChainError> {
        let base = ShardStateUnsplit {
            accounts: Lazy::new(&self.first_accounts()?)?,
            total_balance: CurrencyCollection::from(Tokens::new(FAUCET_BALANCE)),
            ..self.state(ShardIdent::BASECHAIN)
        };
        let base_root = CellBuilder::build_from(&base)?;
        let zero = zero_id(ShardIdent::BASECHAIN, &base_root);
        let extra = McStateExtra {
            shards: shard_hashes(&description(&zero, 0, 0, self.time))?,
            config: self.config()?,
            validator_info: ValidatorInfo {
                validator_list_hash_short: 0,
                catchain_seqno: 0,
                nx_cc_updated: false,
            },
            prev_blocks: AugDict::new(),
            after_key_block: true,
            last_key_block: None,
            block_create_stats: None,
            global_balance: base.total_balance.clone(),
        };
        let master =
            ShardStateUnsplit { custom: Some(Lazy::new(&extra)?), ..self.state(ShardIdent::MASTERCHAIN) };
        let master_root = CellBuilder::build_from(&master)?;
        Ok(Beginning { master, base, master_root, base_root })
    }

    fn state(&self, shard_ident: ShardIdent) -> ShardStateUnsplit {
        ShardStateUnsplit {
            global_id: GLOBAL_ID,
            shard_ident,
            gen_utime: self.time,
            ..ShardStateUnsplit::default()
        }
    }

    /// Main net's configuration with our own number, workchain and validator.
    pub(crate) fn config(&self) -> Result<BlockchainConfig, ChainError> {
        let root = Boc::decode(include_bytes!("../res/config.boc"))
            .map_err(|e| ChainError::Config(e.to_string()))?;
        let mut params = BlockchainConfigParams::from_raw(root);
        params.set_global_id(GLOBAL_ID)?;
        params.set_workchains(&basechain()?)?;
        let validator = ValidatorDescription {
            public_key: HashBytes(self.validator().verifying_key().to_bytes()),
            weight: 1,
            adnl_addr: None,
            mc_seqno_since: 0,
            prev_total_weight: 0,
        };
        params.set::<ConfigParam34>(&ValidatorSet {
            utime_since: self.time,
            utime_until: u32::MAX,
            main: NonZeroU16::MIN,
            total_weight: 1,
            list: vec![validator],
        })?;
        let address = params.as_dict().get(0)?.map(|cell| cell.parse::<HashBytes>()).transpose()?;
        Ok(BlockchainConfig { address: address.unwrap_or_default(), params })
    }

    fn first_accounts(&self) -> Result<ShardAccounts, ChainError> {
        let faucet = self.faucet()?;
        let account = active(faucet.address(), faucet.state_init().clone(), FAUCET_BALANCE, self.time);
        let mut accounts = ShardAccounts::new();
        let balance = account.balance.clone();
        let leaf = shard_account(Some(account))?;
        accounts.set(faucet.address().address, DepthBalanceInfo { split_depth: 0, balance }, leaf)?;
        Ok(accounts)
    }
}

/// An account as it stands in a state that no transaction made.
fn active(address: &Address, init: StateInit, balance: u128, time: u32) -> Account {
    Account {
        address: IntAddr::Std(address.clone()),
        // The first transaction counts anew.
        storage_stat: StorageInfo {
            used: StorageUsed::ZERO,
            storage_extra: Default::default(),
            last_paid: time,
            due_payment: None,
        },
        last_trans_lt: 0,
        balance: CurrencyCollection::from(Tokens::new(balance)),
        state: AccountState::Active(init),
    }
}

/// The leaf of an account that had no transaction yet.
pub(crate) fn shard_account(account: Option<Account>) -> Result<ShardAccount, ChainError> {
    let account = Lazy::new(&OptionalAccount(account))?;
    Ok(ShardAccount { account, last_trans_hash: HashBytes::ZERO, last_trans_lt: 0 })
}

fn basechain() -> Result<Dict<i32, WorkchainDescription>, ChainError> {
    let mut workchains = Dict::new();
    workchains.set(
        0,
        WorkchainDescription {
            enabled_since: 0,
            actual_min_split: 0,
            min_split: 0,
            max_split: 0,
            active: true,
            accept_msgs: true,
            zerostate_root_hash: HashBytes::ZERO,
            zerostate_file_hash: HashBytes::ZERO,
            version: 0,
            format: WorkchainFormat::Basic(WorkchainFormatBasic { vm_version: -1, vm_mode: 0 }),
        },
    )?;
    Ok(workchains)
}

/// The id of a zero state: number 0, the hashes of the state itself.
pub(crate) fn zero_id(shard: ShardIdent, root: &Cell) -> BlockId {
    BlockId { shard, seqno: 0, root_hash: *root.repr_hash(), file_hash: Boc::file_hash(Boc::encode(root)) }
}

/// What the masterchain says of the base chain's newest block.
pub(crate) fn description(id: &BlockId, start_lt: u64, end_lt: u64, gen_utime: u32) -> ShardDescription {
    ShardDescription {
        seqno: id.seqno,
        reg_mc_seqno: id.seqno,
        start_lt,
        end_lt,
        root_hash: id.root_hash,
        file_hash: id.file_hash,
        before_split: false,
        before_merge: false,
        want_split: false,
        want_merge: false,
        nx_cc_updated: false,
        next_catchain_seqno: 0,
        next_validator_shard: ShardIdent::BASECHAIN.prefix(),
        min_ref_mc_seqno: id.seqno.saturating_sub(1),
        gen_utime,
        split_merge_at: None,
        fees_collected: CurrencyCollection::ZERO,
        funds_created: CurrencyCollection::ZERO,
    }
}

/// One workchain, one shard.
pub(crate) fn shard_hashes(base: &ShardDescription) -> Result<ShardHashes, ChainError> {
    Ok(ShardHashes::from_shards([(&ShardIdent::BASECHAIN, base)])?)
}
