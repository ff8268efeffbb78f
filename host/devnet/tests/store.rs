//! The chain on disk: what was under way arrives after a restart, and damage is refused.

mod common;

use common::{BEGIN, TON, genesis, pay};
use devnet::Node;
use ton::forms::{Bag, Control, Faults, Question, Reply};
use ton::wallet::Wallet;
use ton::{Address, HashBytes};

/// Asks and expects no refusal.
fn ask(node: &mut Node, question: Question) {
    let reply = node.answer(question, BEGIN).expect("the chain goes on");
    assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
}

#[test]
fn messages_under_way_arrive_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path(), genesis(41)).unwrap();
    let alice = Wallet::from_seed(&[1; 32], devnet::GLOBAL_ID).unwrap();
    let bob = Address::new(0, HashBytes([2; 32]));
    ask(
        &mut node,
        Question::Control(Control::Faucet { address: alice.address().clone(), amount: 5_000_000_000 }),
    );
    node.produce(BEGIN).unwrap();
    ask(&mut node, Question::Control(Control::Faults(Faults { delay_blocks: 4, ..Faults::default() })));
    ask(&mut node, Question::Control(Control::Advance { seconds: 1000 }));
    let transfer = alice.transfer(0, BEGIN + 2000, &[pay(&bob, TON, false)]).unwrap();
    ask(&mut node, Question::Send { message: Bag(transfer) });
    for _ in 0..6 {
        node.produce(BEGIN).unwrap();
    }
    let before = node.facts().unwrap();
    assert_eq!((before.waiting, node.balance(&bob).unwrap()), (1, 0), "the payment is under way");
    drop(node);
    // Another genesis changes nothing: the folder has its own.
    let mut node = Node::open(dir.path(), genesis(99)).unwrap();
    let after = node.facts().unwrap();
    assert_eq!(serde_json::to_value(&before).unwrap(), serde_json::to_value(&after).unwrap());
    for _ in 0..6 {
        node.produce(BEGIN).unwrap();
    }
    assert_eq!((node.facts().unwrap().waiting, node.balance(&bob).unwrap()), (0, TON));
    assert!(node.chain().time() >= BEGIN + 1000, "the clock stays ahead");
}

#[test]
fn a_head_and_its_proofs_are_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path(), genesis(42)).unwrap();
    for _ in 0..3 {
        node.produce(BEGIN).unwrap();
    }
    let head = serde_json::to_value(node.chain().head().unwrap()).unwrap();
    let faucet = node.chain().faucet().clone();
    let id = node.chain().head().unwrap().id;
    let proof = serde_json::to_value(node.chain().prove_account(&id, &faucet).unwrap()).unwrap();
    drop(node);
    let node = Node::open(dir.path(), genesis(42)).unwrap();
    assert_eq!(serde_json::to_value(node.chain().head().unwrap()).unwrap(), head);
    assert_eq!(serde_json::to_value(node.chain().prove_account(&id, &faucet).unwrap()).unwrap(), proof);
}

#[test]
fn an_account_that_was_changed_on_disk_is_refused() {
    use redb::{Database, ReadableTable as _, TableDefinition};
    const ACCOUNTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("accounts");
    let dir = tempfile::tempdir().unwrap();
    drop(Node::open(dir.path(), genesis(43)).unwrap());
    let database = Database::open(dir.path().join("chain.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut accounts = write.open_table(ACCOUNTS).unwrap();
        let key = accounts.first().unwrap().unwrap().0.value().to_vec();
        accounts.remove(key.as_slice()).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let error = Node::open(dir.path(), genesis(43)).err().expect("damage is refused");
    assert!(error.to_string().contains("its accounts have hash"), "{error}");
}
