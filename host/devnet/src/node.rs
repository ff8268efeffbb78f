//! A chain, the file that it is kept in, and the clock that it runs by: what answers questions.

use crate::chain::{Chain, Produced};
use crate::genesis::Genesis;
use crate::store::{Store, StoreError};
use crate::{ChainError, GLOBAL_ID, WHAT};
use serde::{Deserialize, Serialize};
use std::path::Path;
use ton::forms::{Bag, Control, Faults, Info, Question, Reply};
use ton::{Address, HashBytes, Network};

/// Most transactions of one answer.
const TRANSACTIONS_LIMIT: usize = 64;
/// Most blocks that one order produces.
const BLOCKS_LIMIT: u32 = 10_000;

/// Facts about a chain, for people and programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// That it is a local test chain.
    pub what: String,
    /// What clients pin.
    pub network: Network,
    /// The faucet's address.
    pub faucet: String,
    /// Number of the newest masterchain block.
    pub seqno: u32,
    /// Its time, seconds since 1970.
    pub time: u32,
    /// Seconds that the chain's clock is ahead of the machine's.
    pub ahead: u32,
    /// Messages that wait for a block.
    pub waiting: usize,
    /// Transactions so far.
    pub transactions: usize,
    /// Coins of all accounts and under way, nanoTON.
    pub coins: String,
    /// Fees that the validator took so far, nanoTON. With `coins` it is what the faucet began with.
    pub fees: String,
    /// What the network does to messages.
    pub faults: Faults,
}

/// A running chain.
pub struct Node {
    chain: Chain,
    store: Option<Store>,
    offset: u32,
}

impl Node {
    /// A chain that lives as long as this value; for tests.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn in_memory(genesis: Genesis) -> Result<Self, StoreError> {
        Ok(Node { chain: Chain::new(genesis)?, store: None, offset: 0 })
    }

    /// The chain in `folder`; a new one of `genesis` where there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(folder: &Path, genesis: Genesis) -> Result<Self, StoreError> {
        let store = Store::open(folder)?;
        let (chain, offset) = match store.load()? {
            Some(found) => found,
            None => {
                let (chain, first) = Chain::begin(genesis)?;
                store.save(&chain, &first, 0)?;
                (chain, 0)
            }
        };
        Ok(Node { chain, store: Some(store), offset })
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Makes a block at the machine's time `wall` and keeps it.
    ///
    /// # Errors
    /// See [`StoreError`]; the chain must not go on after one.
    pub fn produce(&mut self, wall: u32) -> Result<Produced, StoreError> {
        let produced = self.chain.produce(wall.saturating_add(self.offset))?;
        if let Some(store) = &self.store {
            store.save(&self.chain, &produced, self.offset)?;
        }
        Ok(produced)
    }

    /// Facts.
    ///
    /// # Errors
    /// If a message is malformed, which it never is.
    pub fn facts(&self) -> Result<Facts, ChainError> {
        let (coins, fees) = self.chain.coins()?;
        Ok(Facts {
            what: WHAT.into(),
            network: *self.chain.network(),
            faucet: self.chain.faucet().to_string(),
            seqno: self.chain.seqno(),
            time: self.chain.time(),
            ahead: self.offset,
            waiting: self.chain.waiting(),
            transactions: self.chain.transactions.len(),
            coins: coins.to_string(),
            fees: fees.to_string(),
            faults: self.chain.mail.faults,
        })
    }

    /// Answers a question at the machine's time `wall`. Waiting for a head is the server's business.
    ///
    /// # Errors
    /// Only what stops the chain; what is wrong with a question is said in the reply.
    pub fn answer(&mut self, question: Question, wall: u32) -> Result<Reply, StoreError> {
        if let Question::Control(control) = question {
            return self.control(control, wall);
        }
        Ok(self.reply(question).unwrap_or_else(|error| Reply::Refused(error.to_string())))
    }

    fn reply(&mut self, question: Question) -> Result<Reply, ChainError> {
        let head = self.chain.head().ok_or(ChainError::Validators)?.clone();
        Ok(match question {
            Question::Info => Reply::Info(Info {
                what: WHAT.into(),
                global_id: GLOBAL_ID,
                zero_state: self.chain.zero_state(),
                head: head.id,
            }),
            Question::Head { .. } => Reply::Head(head),
            Question::Validators => Reply::Validators(self.chain.prove_validators()?),
            Question::Config { block } => Reply::Config(self.chain.prove_config(&block)?),
            Question::Account { block, address } => {
                Reply::Account(Box::new(self.chain.prove_account(&block, &address)?))
            }
            Question::Transactions { address, lt, count } => {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(TRANSACTIONS_LIMIT);
                Reply::Transactions(
                    self.chain.transactions(&address, lt, count).into_iter().map(Bag).collect(),
                )
            }
            Question::Send { message } => {
                self.chain.broadcast(message.0)?;
                Reply::Sent
            }
            Question::Control(_) => Reply::Refused("an order is no question".into()),
        })
    }

    fn control(&mut self, control: Control, wall: u32) -> Result<Reply, StoreError> {
        match control {
            Control::Faucet { address, amount } => self.chain.pay(address, amount),
            Control::Advance { seconds } => {
                let now = self.chain.time().max(wall.saturating_add(self.offset));
                let Some(then) = now.checked_add(seconds) else {
                    return Ok(Reply::Refused("the chain's clock ends in 2106; advance by less".into()));
                };
                self.offset = then.saturating_sub(wall);
                self.produce(wall)?;
            }
            Control::Produce { blocks } => {
                for _ in 0..blocks.min(BLOCKS_LIMIT) {
                    self.produce(wall)?;
                }
            }
            Control::Faults(faults) => self.chain.set_faults(faults),
            Control::Facts => {}
        }
        let facts = self.facts()?;
        Ok(match serde_json::to_value(facts) {
            Ok(facts) => Reply::Done(facts),
            Err(error) => Reply::Refused(error.to_string()),
        })
    }

    /// The leaf of an account in the newest state, for tests that need no proof.
    ///
    /// # Errors
    /// If the state is malformed, which it never is.
    pub fn balance(&self, address: &Address) -> Result<u128, ChainError> {
        let account = self.chain.account(address)?.load_account()?;
        Ok(account.map_or(0, |account| account.balance.tokens.into_inner()))
    }

    /// Hash of an account's code in the newest state, for tests that need no proof.
    ///
    /// # Errors
    /// If the state is malformed, which it never is.
    pub fn code_hash(&self, address: &Address) -> Result<Option<HashBytes>, ChainError> {
        use tycho_types::models::AccountState;
        let account = self.chain.account(address)?.load_account()?;
        Ok(account.and_then(|account| match account.state {
            AccountState::Active(init) => init.code.map(|code| *code.repr_hash()),
            AccountState::Uninit | AccountState::Frozen(_) => None,
        }))
    }
}
