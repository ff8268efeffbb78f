//! What a server of the chain sends: answers in JSON, and the bags of cells in them.

use crate::{MEMORY, Target};
use devnet::{Genesis, Node};
use std::sync::OnceLock;
use ton::contract::{pool, root, vault};
use ton::forms::{AccountState, Bag, ConfigInfo, Info, Question, Reply};
use ton::{Address, Cell, HashBytes, Network, ProvenTransaction, Trust, proof};
use tycho_types::boc::Boc;
use tycho_types::models::BlockId;

/// Answers, as they come.
pub const REPLY: Target = Target { name: "ledger_reply", run: run_reply, seeds: seeds_reply, memory: MEMORY };
/// Bags of cells: proofs, accounts, transactions.
pub const BAG: Target = Target { name: "ledger_bag", run: run_bag, seeds: seeds_bag, memory: MEMORY };

/// Time of the chain that the seeds are taken from.
const TIME: u32 = 4_000_000_000;

/// Genuine answers about one account of a small chain.
struct Genuine {
    network: Network,
    head: BlockId,
    state_root: HashBytes,
    whose: Address,
    account: AccountState,
    config: ConfigInfo,
    replies: Vec<Reply>,
}

fn genuine() -> Option<&'static Genuine> {
    static GENUINE: OnceLock<Option<Genuine>> = OnceLock::new();
    GENUINE.get_or_init(make).as_ref()
}

fn make() -> Option<Genuine> {
    let mut node = Node::in_memory(Genesis { seed: [7; 32], time: TIME }).ok()?;
    let whose = node.chain().faucet().clone();
    let control = ton::forms::Control::Faucet { address: Address::new(0, HashBytes([1; 32])), amount: 5 };
    node.answer(Question::Control(control), TIME).ok()?;
    node.produce(TIME).ok()?;
    let network = *node.chain().network();
    let mut ask = |question| node.answer(question, TIME).ok();
    let Reply::Info(Info { head, .. }) = ask(Question::Info)? else { return None };
    let Reply::Account(account) = ask(Question::Account { block: head, address: whose.clone() })? else {
        return None;
    };
    let Reply::Config(config) = ask(Question::Config { block: head })? else { return None };
    let Reply::Head(signed) = ask(Question::Head { seqno: 0, wait_ms: 0 })? else { return None };
    let replies = vec![
        ask(Question::Validators)?,
        ask(Question::Transactions { address: whose.clone(), lt: u64::MAX, count: 1 })?,
        Reply::Head(signed.clone()),
        Reply::Account(account.clone()),
        Reply::Config(config.clone()),
    ];
    let state_root = proof::header(&signed.header, &head).ok()?.state_root;
    Some(Genuine { network, head, state_root, whose, account: *account, config, replies })
}

fn run_reply(bytes: &[u8]) -> bool {
    let (Some(genuine), Ok(reply)) = (genuine(), serde_json::from_slice::<Reply>(bytes)) else {
        return false;
    };
    let mut trust = Trust::new(genuine.network);
    if let Some(Reply::Validators(bag)) = genuine.replies.first() {
        let _ = trust.learn_validators(bag);
    }
    match reply {
        Reply::Head(block) => trust.accept(&block).is_ok(),
        Reply::Validators(bag) => trust.learn_validators(&bag).is_ok(),
        Reply::Config(config) => proof::config(&config, &genuine.state_root).is_ok(),
        Reply::Account(account) => proof::account(&account, &genuine.whose, &genuine.state_root).is_ok(),
        Reply::Transactions(bags) => {
            bags.iter().all(|bag| ProvenTransaction::read(&bag.0, bag.0.repr_hash()).is_ok())
        }
        Reply::Info(_) | Reply::Sent | Reply::Done(_) | Reply::Refused(_) => true,
    }
}

fn seeds_reply() -> Vec<Vec<u8>> {
    let replies = genuine().into_iter().flat_map(|genuine| &genuine.replies);
    replies.filter_map(|reply| serde_json::to_vec(reply).ok()).collect()
}

/// Walks a bag with every reader there is, as if it was what that reader expects.
fn run_bag(bytes: &[u8]) -> bool {
    let (Some(genuine), Ok(cell)) = (genuine(), Boc::decode(bytes)) else { return false };
    let bag = Bag(cell.clone());
    let _ = proof::header(&bag, &genuine.head);
    let account = AccountState { state: bag.clone(), ..genuine.account.clone() };
    let _ = proof::account(&account, &genuine.whose, &genuine.state_root);
    let account = AccountState { account: Some(bag.clone()), ..genuine.account.clone() };
    let _ = proof::account(&account, &genuine.whose, &genuine.state_root);
    let _ = proof::config(&ConfigInfo { state: bag }, &genuine.state_root);
    walk(&cell, &genuine.whose);
    true
}

/// The readers behind the check of hashes, which a server that lies can't pass, on cells as they are.
fn walk(cell: &Cell, whose: &Address) {
    let shown = cell.reference(0).unwrap_or(cell.as_ref()).virtualize();
    for root in [cell.as_ref(), shown] {
        let _ = proof::read_header(root);
        let _ = proof::read_account(root, &whose.address);
        let _ = proof::read_shard(root, whose);
        let _ = proof::read_config(root);
    }
    let _ = ProvenTransaction::read(cell, cell.repr_hash());
    let _ = root::parse_book(cell);
}

fn seeds_bag() -> Vec<Vec<u8>> {
    let Some(Genuine { account, config, replies, whose, .. }) = genuine() else { return Vec::new() };
    let mut bags = vec![account.state.clone(), config.state.clone()];
    bags.extend(account.shard.iter().flat_map(|shard| [shard.master.clone(), shard.header.clone()]));
    bags.extend(account.account.clone());
    bags.extend(replies.iter().filter_map(|reply| match reply {
        Reply::Transactions(bags) => bags.first().cloned(),
        _ => None,
    }));
    let terms = vault::Terms { client_key: [1; 32], owner: whose.clone(), pool: whose.clone(), salt: 1 };
    let inits = [terms.state_init(), pool::Terms { owner: whose.clone(), salt: 1, grace: 7200 }.state_init()];
    bags.extend(inits.into_iter().flatten().filter_map(|init| init.data).map(Bag));
    bags.into_iter().map(|bag| Boc::encode(bag.0)).collect()
}
