//! The ledger over one server: asks, checks, and believes what is proven.

use crate::forms::{Bag, Info, Question, Reply, SignedBlock};
use crate::ledger::{Answer, Ledger, LedgerError, ProvenAccount, ProvenBlock};
use crate::link::Link;
use crate::transaction::ProvenTransaction;
use crate::trust::{Network, Trust, TrustError};
use crate::{Address, Cell, proof};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tycho_types::boc::Boc;
use tycho_types::models::{BlockchainConfigParams, MsgType};
use tycho_types::prelude::Load as _;

/// Largest external message that TON takes, bytes (configuration parameter 43, `max_ext_msg_size`).
const MESSAGE_LIMIT: usize = 65_535;
/// Most transactions of one answer.
const TRANSACTIONS_LIMIT: usize = 256;
/// Longest that a server is asked to wait at once.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A proof-checking client of one server.
pub struct LiteClient {
    link: Link,
    network: Network,
    trust: Mutex<Trust>,
    /// The last configuration, by the number of the key block that it came with.
    config: Mutex<Option<(u32, Arc<BlockchainConfigParams>)>>,
}

impl LiteClient {
    /// A client of the server at `server`, for the pinned `network`. Nothing is asked yet.
    pub fn new(server: SocketAddr, network: Network) -> Self {
        LiteClient {
            link: Link::to(server),
            network,
            trust: Mutex::new(Trust::new(network)),
            config: Mutex::new(None),
        }
    }

    /// What a server says of itself, believed by nobody: for people, and to pin a network at first use in development.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub async fn introduce(server: SocketAddr) -> Result<Info, LedgerError> {
        match Link::to(server).ask(&Question::Info, Duration::ZERO).await? {
            Reply::Info(info) => Ok(info),
            other => Err(unexpected("the network", &other)),
        }
    }

    async fn ask(&self, question: &Question) -> Result<Reply, LedgerError> {
        Ok(self.link.ask(question, Duration::ZERO).await?)
    }

    async fn newest(&self, seqno: u32, within: Duration) -> Result<ProvenBlock, LedgerError> {
        let wait = within.min(WAIT_LIMIT);
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        self.learn_validators().await?;
        match self.link.ask(&Question::Head { seqno, wait_ms }, wait).await? {
            Reply::Head(block) => self.accept(&block).await,
            other => Err(unexpected("the head", &other)),
        }
    }

    /// Answers overtake each other on different connections, and servers lag: the newest head is the newest that was seen.
    async fn accept(&self, block: &SignedBlock) -> Result<ProvenBlock, LedgerError> {
        let mut trust = self.trust.lock().await;
        match (trust.accept(block), trust.newest()) {
            (Err(TrustError::Behind { .. }), Some(newest)) => Ok(newest.clone()),
            (result, _) => Ok(result?),
        }
    }

    async fn learn_validators(&self) -> Result<(), LedgerError> {
        if self.trust.lock().await.knows_validators() {
            return Ok(());
        }
        match self.ask(&Question::Validators).await? {
            Reply::Validators(bag) => Ok(self.trust.lock().await.learn_validators(&bag)?),
            other => Err(unexpected("validators", &other)),
        }
    }

    /// The configuration at a block: it changes in key blocks only.
    async fn config_at(&self, block: &ProvenBlock) -> Result<Arc<BlockchainConfigParams>, LedgerError> {
        let mut kept = self.config.lock().await;
        if let Some((key_block, config)) = &*kept
            && *key_block == block.key_block()
        {
            return Ok(config.clone());
        }
        let config = match self.ask(&Question::Config { block: *block.id() }).await? {
            Reply::Config(info) => Arc::new(proof::config(&info, block.state_root())?),
            other => return Err(unexpected("the configuration", &other)),
        };
        *kept = Some((block.key_block(), config.clone()));
        Ok(config)
    }

    async fn account_at(&self, block: ProvenBlock, address: &Address) -> Result<ProvenAccount, LedgerError> {
        let config = self.config_at(&block).await?;
        let question = Question::Account { block: *block.id(), address: address.clone() };
        match self.ask(&question).await? {
            Reply::Account(answer) => {
                let found = proof::account(&answer, address, block.state_root())?;
                Ok(ProvenAccount::new(block, config, address.clone(), found))
            }
            other => Err(unexpected("an account", &other)),
        }
    }

    async fn chained(
        &self,
        of: &ProvenAccount,
        since_lt: u64,
        at_most: usize,
    ) -> Result<Vec<ProvenTransaction>, LedgerError> {
        let (mut hash, mut lt) = (*of.last_hash(), of.last_lt());
        let mut out = Vec::new();
        let at_most = at_most.min(TRANSACTIONS_LIMIT);
        while lt > since_lt && out.len() < at_most {
            let count = u32::try_from(at_most - out.len()).unwrap_or(u32::MAX);
            let question = Question::Transactions { address: of.address().clone(), lt, count };
            let bags = match self.ask(&question).await? {
                Reply::Transactions(bags) if !bags.is_empty() => bags,
                Reply::Transactions(_) => {
                    return Err(LedgerError::Refused(format!(
                        "it has no transaction {lt} of {}",
                        of.address()
                    )));
                }
                other => return Err(unexpected("transactions", &other)),
            };
            for bag in bags.iter().take(at_most - out.len()) {
                if lt <= since_lt {
                    break;
                }
                let transaction = ProvenTransaction::read(&bag.0, &hash)?;
                (hash, lt) = transaction.previous;
                out.push(transaction);
            }
        }
        Ok(out)
    }

    async fn broadcast(&self, message: &Cell) -> Result<(), LedgerError> {
        sendable(message)?;
        match self.ask(&Question::Send { message: Bag(message.clone()) }).await? {
            Reply::Sent => Ok(()),
            other => Err(unexpected("a broadcast", &other)),
        }
    }
}

impl Ledger for LiteClient {
    fn network(&self) -> &Network {
        &self.network
    }

    fn head(&self) -> Answer<'_, ProvenBlock> {
        Box::pin(self.newest(0, Duration::ZERO))
    }

    fn head_after(&self, seqno: u32, within: Duration) -> Answer<'_, Option<ProvenBlock>> {
        Box::pin(async move {
            let block = self.newest(seqno, within).await?;
            Ok((block.seqno() > seqno).then_some(block))
        })
    }

    fn account<'a>(&'a self, address: &'a Address) -> Answer<'a, ProvenAccount> {
        Box::pin(async move {
            let head = self.newest(0, Duration::ZERO).await?;
            self.account_at(head, address).await
        })
    }

    fn transactions<'a>(
        &'a self,
        of: &'a ProvenAccount,
        since_lt: u64,
        at_most: usize,
    ) -> Answer<'a, Vec<ProvenTransaction>> {
        Box::pin(self.chained(of, since_lt, at_most))
    }

    fn send<'a>(&'a self, message: &'a Cell) -> Answer<'a, ()> {
        Box::pin(self.broadcast(message))
    }
}

/// An external message that the network would take.
pub(crate) fn sendable(message: &Cell) -> Result<(), LedgerError> {
    let refused = |found: String| LedgerError::Message { found, limit: MESSAGE_LIMIT };
    let kind = message.as_slice().and_then(|mut slice| MsgType::load_from(&mut slice));
    if !matches!(kind, Ok(MsgType::ExtIn)) {
        return Err(refused("another kind".into()));
    }
    let length = Boc::encode(message).len();
    if length > MESSAGE_LIMIT { Err(refused(format!("{length} bytes"))) } else { Ok(()) }
}

fn unexpected(asked: &'static str, reply: &Reply) -> LedgerError {
    let found = match reply {
        Reply::Refused(why) => return LedgerError::Refused(why.clone()),
        Reply::Info(_) => "the network",
        Reply::Head(_) => "a head",
        Reply::Validators(_) => "validators",
        Reply::Config(_) => "a configuration",
        Reply::Account(_) => "an account",
        Reply::Transactions(_) => "transactions",
        Reply::Sent => "that it sent something",
        Reply::Done(_) => "that it did something",
    };
    LedgerError::Answer { asked, found }
}
