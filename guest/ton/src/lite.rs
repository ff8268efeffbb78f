//! The ledger over servers: asks, checks, and believes what is proven.
//!
//! One server that is honest and up to date is enough. All are asked for their head, and one trust judges every head, so that
//! two signed ones with one number raise the alarm whoever sent them. Everything else is asked of one after the other until
//! an answer holds. A broadcast goes to all.

use crate::forms::{Bag, Info, Question, Reply, SignedBlock};
use crate::ledger::{Answer, Ledger, LedgerError, ProvenAccount, ProvenBlock};
use crate::link::{Link, LinkError};
use crate::transaction::ProvenTransaction;
use crate::trust::{Network, Trust, TrustError};
use crate::{Address, Cell, HashBytes, proof};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tycho_types::boc::Boc;
use tycho_types::models::{BlockchainConfigParams, MsgType};
use tycho_types::prelude::Load as _;

/// Largest external message that TON takes, bytes (configuration parameter 43, `max_ext_msg_size`).
const MESSAGE_LIMIT: usize = 65_535;
/// Most transactions of one answer.
const TRANSACTIONS_LIMIT: usize = 256;
/// Longest that a server is asked to wait at once.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// How long a slow server is waited for once another one has given a head.
const GRACE: Duration = Duration::from_secs(1);

/// A proof-checking client.
pub struct LiteClient {
    links: Vec<Arc<Link>>,
    network: Network,
    trust: Mutex<Trust>,
    /// Who gave the last answer that held: asked first, so that a server that hangs costs its patience once.
    best: AtomicUsize,
    /// The last configuration, by the number of the key block that it came with.
    config: Mutex<Option<(u32, Arc<BlockchainConfigParams>)>>,
}

impl LiteClient {
    /// A client of the server at `server`, for the pinned `network`. Nothing is asked yet.
    pub fn new(server: SocketAddr, network: Network) -> Self {
        Self::of_several(&[server], network)
    }

    /// A client of several servers, for the pinned `network`. Without any, every question ends as unreachable.
    pub fn of_several(servers: &[SocketAddr], network: Network) -> Self {
        LiteClient {
            links: servers.iter().map(|server| Arc::new(Link::to(*server))).collect(),
            network,
            trust: Mutex::new(Trust::new(network)),
            best: AtomicUsize::new(0),
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

    /// Asks one server after the other, the one that answered last first, until `check` holds an answer for good; else the first error.
    async fn ask<T>(
        &self,
        question: &Question,
        check: impl Fn(Reply) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut first = None;
        let best = self.best.load(Ordering::Relaxed);
        for turn in 0..self.links.len() {
            let number = (best + turn) % self.links.len();
            let reply = self.links[number].ask(question, Duration::ZERO).await.map_err(LedgerError::from);
            match reply.and_then(&check) {
                Ok(answer) => {
                    self.best.store(number, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(LedgerError::NoServer))
    }

    /// The newest head of all servers, waiting up to `within` for one above `seqno`.
    async fn newest(&self, seqno: u32, within: Duration) -> Result<ProvenBlock, LedgerError> {
        self.learn_validators().await?;
        let wait = within.min(WAIT_LIMIT);
        let question = Question::Head { seqno, wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX) };
        let mut asked = JoinSet::new();
        for link in &self.links {
            let (link, question) = (link.clone(), question.clone());
            asked.spawn(async move { link.ask(&question, wait).await });
        }
        let (mut newest, mut first) = (None::<ProvenBlock>, None);
        loop {
            let next = match &newest {
                None => asked.join_next().await,
                // Whoever waits for a newer block has it; the others get a moment, for their heads are compared.
                Some(_) => timeout(GRACE, asked.join_next()).await.unwrap_or_default(),
            };
            let Some(Ok(reply)) = next else { break };
            match self.judge(reply).await {
                Ok(block) => newest = newest.filter(|had| had.seqno() > block.seqno()).or(Some(block)),
                Err(error @ LedgerError::Trust(TrustError::Fork(_))) => return Err(error),
                Err(error) => first = first.or(Some(error)),
            }
        }
        newest.ok_or_else(|| first.unwrap_or(LedgerError::NoServer))
    }

    async fn judge(&self, reply: Result<Reply, LinkError>) -> Result<ProvenBlock, LedgerError> {
        match reply? {
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
        let learnt = self.ask(&Question::Validators, |reply| match reply {
            Reply::Validators(bag) => {
                let mut trust = Trust::new(self.network);
                trust.learn_validators(&bag)?;
                Ok(trust)
            }
            other => Err(unexpected("validators", &other)),
        });
        let learnt = learnt.await?;
        let mut trust = self.trust.lock().await;
        if !trust.knows_validators() {
            *trust = learnt;
        }
        Ok(())
    }

    /// The configuration at a block: it changes in key blocks only.
    async fn config_at(&self, block: &ProvenBlock) -> Result<Arc<BlockchainConfigParams>, LedgerError> {
        let mut kept = self.config.lock().await;
        if let Some((key_block, config)) = &*kept
            && *key_block == block.key_block()
        {
            return Ok(config.clone());
        }
        let question = Question::Config { block: *block.id() };
        let config = self.ask(&question, |reply| match reply {
            Reply::Config(info) => Ok(Arc::new(proof::config(&info, block.state_root())?)),
            other => Err(unexpected("the configuration", &other)),
        });
        let config = config.await?;
        *kept = Some((block.key_block(), config.clone()));
        Ok(config)
    }

    async fn account_at(&self, block: ProvenBlock, address: &Address) -> Result<ProvenAccount, LedgerError> {
        let config = self.config_at(&block).await?;
        let question = Question::Account { block: *block.id(), address: address.clone() };
        let found = self.ask(&question, |reply| match reply {
            Reply::Account(answer) => Ok(proof::account(&answer, address, block.state_root())?),
            other => Err(unexpected("an account", &other)),
        });
        let found = found.await?;
        Ok(ProvenAccount::new(block, config, address.clone(), found))
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
            let some = self.ask(&question, |reply| match reply {
                Reply::Transactions(bags) if bags.is_empty() => {
                    Err(LedgerError::Refused(format!("it has no transaction {lt} of {}", of.address())))
                }
                Reply::Transactions(bags) => read_chain(&bags, (hash, lt), since_lt, at_most - out.len()),
                other => Err(unexpected("transactions", &other)),
            });
            let some = some.await?;
            // At least one was read, for `lt` is later than what is wanted.
            (hash, lt) = some.last().map_or((hash, 0), |oldest| oldest.previous);
            out.extend(some);
        }
        Ok(out)
    }

    async fn broadcast(&self, message: &Cell) -> Result<(), LedgerError> {
        sendable(message)?;
        let question = Question::Send { message: Bag(message.clone()) };
        let (mut taken, mut first) = (false, None);
        for link in &self.links {
            match link.ask(&question, Duration::ZERO).await {
                Ok(Reply::Sent) => taken = true,
                Ok(other) => first = first.or(Some(unexpected("a broadcast", &other))),
                Err(error) => first = first.or(Some(error.into())),
            }
        }
        if taken { Ok(()) } else { Err(first.unwrap_or(LedgerError::NoServer)) }
    }
}

/// Reads transactions that are chained to `newest` (hash and logical time), newest first.
fn read_chain(
    bags: &[Bag],
    newest: (HashBytes, u64),
    since_lt: u64,
    at_most: usize,
) -> Result<Vec<ProvenTransaction>, LedgerError> {
    let (mut hash, mut lt) = newest;
    let mut out = Vec::new();
    for bag in bags.iter().take(at_most) {
        if lt <= since_lt {
            break;
        }
        let transaction = ProvenTransaction::read(&bag.0, &hash)?;
        (hash, lt) = transaction.previous;
        out.push(transaction);
    }
    Ok(out)
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
