//! A server that lies: every defect here is made of genuine answers, and every one is refused as its fault.

mod common;

use common::{Local, pay, start};
use proptest::prelude::*;
use std::time::Duration;
use ton::forms::{AccountState, Bag, ConfigInfo, Control, Question, Reply, SignedBlock};
use ton::{Address, Cell, HashBytes, Ledger, Link, LiteClient, Trust, TrustError, proof};
use tycho_types::boc::Boc;

/// Genuine answers about one account at one block, and the same a block earlier.
struct Answers {
    validators: Bag,
    head: SignedBlock,
    account: AccountState,
    config: ConfigInfo,
    whose: Address,
    earlier_head: SignedBlock,
    earlier: AccountState,
    network: ton::Network,
}

/// Where one of the bags of two answers lies.
type Part = for<'a> fn(&'a mut SignedBlock, &'a mut AccountState) -> &'a mut Bag;

async fn ask(link: &Link, question: Question) -> Reply {
    link.ask(&question, Duration::ZERO).await.expect("an answer")
}

async fn at_head(link: &Link, whose: &Address) -> (SignedBlock, AccountState, ConfigInfo) {
    let Reply::Head(head) = ask(link, Question::Head { seqno: 0, wait_ms: 0 }).await else {
        panic!("no head")
    };
    let question = Question::Account { block: head.id, address: whose.clone() };
    let Reply::Account(account) = ask(link, question).await else { panic!("no account") };
    let Reply::Config(config) = ask(link, Question::Config { block: head.id }).await else {
        panic!("no config")
    };
    (head, *account, config)
}

async fn answers(local: &Local) -> Answers {
    let link = Link::to(local.at);
    let wallet = local.wallet(11, 10_000_000_000).await;
    let whose = wallet.address().clone();
    let Reply::Validators(validators) = ask(&link, Question::Validators).await else {
        panic!("no validators")
    };
    let (earlier_head, earlier, _) = at_head(&link, &whose).await;
    local.send(&wallet, &[pay(&Address::new(0, HashBytes([9; 32])), 1_000_000_000, false)]).await;
    let (head, account, config) = at_head(&link, &whose).await;
    Answers { validators, head, account, config, whose, earlier_head, earlier, network: local.network }
}

fn trust(answers: &Answers) -> Trust {
    let mut trust = Trust::new(answers.network);
    trust.learn_validators(&answers.validators).expect("genuine validators");
    trust
}

/// Believes a head and an account, or says why not.
fn believed(answers: &Answers, head: &SignedBlock, account: &AccountState) -> Result<u128, String> {
    let block = trust(answers).accept(head).map_err(|e| e.to_string())?;
    let found = proof::account(account, &answers.whose, block.state_root()).map_err(|e| e.to_string())?;
    Ok(found.account.map_or(0, |account| account.balance.tokens.into_inner()))
}

#[tokio::test]
async fn genuine_answers_are_believed() {
    let answers = answers(&start(31).await).await;
    assert!(believed(&answers, &answers.head, &answers.account).unwrap() > 0);
    let block = trust(&answers).accept(&answers.head).unwrap();
    assert!(proof::config(&answers.config, block.state_root()).is_ok());
}

#[tokio::test]
async fn an_account_of_another_block_or_another_owner_is_refused() {
    let local = start(32).await;
    let answers = answers(&local).await;
    assert!(
        believed(&answers, &answers.head, &answers.earlier).is_err(),
        "an older state under a newer head"
    );
    let mut mixed = answers.account.clone();
    mixed.account = answers.earlier.account.clone();
    assert!(believed(&answers, &answers.head, &mixed).is_err(), "an older account beside a newer proof");
    let mut hidden = answers.account.clone();
    hidden.account = None;
    assert!(believed(&answers, &answers.head, &hidden).is_err(), "an account that is there, hidden");
    let nobody = Address::new(0, HashBytes([0x33; 32]));
    let block = trust(&answers).accept(&answers.head).unwrap();
    assert!(proof::account(&answers.account, &nobody, block.state_root()).is_err(), "another's proof");
    let mut short = answers.account.clone();
    short.shard = None;
    assert!(believed(&answers, &answers.head, &short).is_err(), "no way from the masterchain");
}

#[tokio::test]
async fn a_head_with_missing_foreign_doubled_or_broken_signatures_is_refused() {
    let answers = answers(&start(33).await).await;
    let foreign = start(34).await;
    let Reply::Head(other) = ask(&Link::to(foreign.at), Question::Head { seqno: 0, wait_ms: 0 }).await else {
        panic!("no head")
    };
    let with = |change: &dyn Fn(&mut SignedBlock)| {
        let mut head = answers.head.clone();
        change(&mut head);
        trust(&answers).accept(&head)
    };
    assert!(matches!(with(&|head| head.signatures.clear()), Err(TrustError::Signatures { .. })));
    assert!(matches!(
        with(&|head| head.signatures = other.signatures.clone()),
        Err(TrustError::Signature { .. })
    ));
    let doubled = |head: &mut SignedBlock| head.signatures.extend(head.signatures.clone());
    assert!(matches!(with(&doubled), Err(TrustError::Signature { what: "there twice", .. })));
    let old = |head: &mut SignedBlock| head.signatures = answers.earlier_head.signatures.clone();
    assert!(matches!(with(&old), Err(TrustError::Signature { what: "not valid", .. })));
    assert!(matches!(
        with(&|head| head.signatures[0].signature = "AA".into()),
        Err(TrustError::Signature { .. })
    ));
    assert!(matches!(
        with(&|head| head.header = answers.earlier_head.header.clone()),
        Err(TrustError::Proof(_))
    ));
    assert!(trust(&answers).accept(&other).is_err(), "another chain's head");
}

#[tokio::test]
async fn a_step_back_is_told_from_a_fork() {
    let answers = answers(&start(35).await).await;
    let mut trust = trust(&answers);
    trust.accept(&answers.head).unwrap();
    assert!(matches!(trust.accept(&answers.earlier_head), Err(TrustError::Behind { .. })));
    // The very same validator signs another block with the same number: a second life from the same seed.
    let twin = start(35).await;
    twin.wallet(12, 77).await;
    while twin.client.head().await.unwrap().seqno() < answers.head.id.seqno {
        twin.order(Control::Produce { blocks: 1 }).await;
    }
    let Reply::Head(fork) = ask(&Link::to(twin.at), Question::Head { seqno: 0, wait_ms: 0 }).await else {
        panic!("no head")
    };
    assert_eq!(fork.id.seqno, answers.head.id.seqno);
    let error = trust.accept(&fork).unwrap_err();
    assert!(matches!(error, TrustError::Fork(_)) && error.to_string().contains("ALARM"), "{error}");
}

#[tokio::test]
async fn a_changed_bit_changes_nothing_that_is_believed() {
    let answers = answers(&start(36).await).await;
    let genuine = believed(&answers, &answers.head, &answers.account).unwrap();
    let parts: [Part; 5] = [
        |head, _| &mut head.header,
        |_, account| &mut account.shard.as_mut().expect("a shard").master,
        |_, account| &mut account.shard.as_mut().expect("a shard").header,
        |_, account| &mut account.state,
        |_, account| account.account.as_mut().expect("an account"),
    ];
    proptest!(ProptestConfig::with_cases(2_000), |(part in 0..parts.len(), at: prop::sample::Index, bit in 0u8..8)| {
        let (mut head, mut account) = (answers.head.clone(), answers.account.clone());
        let bag = parts[part](&mut head, &mut account);
        let mut bytes = Boc::encode(&bag.0);
        let place = at.index(bytes.len());
        bytes[place] ^= 1 << bit;
        // What is no bag of cells any more does not even arrive.
        let Ok(cell) = Boc::decode(&bytes) else { return Ok(()) };
        *bag = Bag(cell);
        if let Ok(balance) = believed(&answers, &head, &account) {
            prop_assert_eq!(balance, genuine);
        }
    });
}

#[tokio::test]
async fn a_configuration_with_a_hole_is_refused() {
    let answers = answers(&start(37).await).await;
    let block = trust(&answers).accept(&answers.head).unwrap();
    // The proof of a shard is of the same state, but shows no parameter.
    let hole = ConfigInfo { state: answers.account.shard.as_ref().unwrap().master.clone() };
    assert!(proof::config(&hole, block.state_root()).is_err());
    assert!(proof::config(&ConfigInfo { state: Bag(Cell::default()) }, block.state_root()).is_err());
}

#[tokio::test]
async fn a_server_that_does_not_speak_the_protocol_is_at_fault() {
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x04\xff\xfe\xfd\xfc"] {
        let at = parrot(garbage).await;
        let network = *devnet::Chain::new(common::genesis(1)).unwrap().network();
        let error = LiteClient::new(at, network).head().await.unwrap_err();
        assert!(error.is_peer_fault(), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_no_liar() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let network = *devnet::Chain::new(common::genesis(1)).unwrap().network();
    let error = LiteClient::new(at, network).head().await.unwrap_err();
    assert!(!error.is_peer_fault() && error.to_string().contains("is the chain running"), "{error}");
}

/// A server that answers every question with the same bytes.
async fn parrot(said: &'static [u8]) -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 64];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(said).await;
        }
    });
    at
}

#[tokio::test]
async fn one_honest_server_among_liars_and_absent_ones_is_enough() {
    let (honest, foreign) = (start(61).await, start(62).await);
    let wallet = honest.wallet(11, 10_000_000_000).await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let servers = [gone, parrot(b"\x00\x00\x00\x02{}").await, foreign.at, honest.at];
    let client = LiteClient::of_several(&servers, honest.network);
    let before = client.account(wallet.address()).await.unwrap();
    assert_eq!(before.balance(), 10_000_000_000);
    let transfer = wallet.transfer(0, u32::MAX, &[pay(&before.address().clone(), 1, false)]).unwrap();
    client.send(&transfer).await.unwrap();
    honest.settle().await;
    let after = client.account(wallet.address()).await.unwrap();
    assert!(after.last_lt() > before.last_lt());
    assert_eq!(client.transactions(&after, before.last_lt(), 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn two_servers_with_two_signed_heads_of_one_number_raise_the_alarm() {
    let (one, other) = (start(63).await, start(63).await);
    one.wallet(11, 1).await;
    other.wallet(12, 2).await;
    for local in [&one, &other] {
        while local.client.head().await.unwrap().seqno() < 20 {
            local.order(Control::Produce { blocks: 1 }).await;
        }
    }
    for servers in [[one.at, other.at], [other.at, one.at]] {
        let error = LiteClient::of_several(&servers, one.network).head().await.unwrap_err();
        assert!(error.is_peer_fault() && error.to_string().contains("ALARM"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_lags_holds_nobody_back() {
    let (fresh, stale) = (start(64).await, start(64).await);
    fresh.order(Control::Produce { blocks: 5 }).await;
    for servers in [[fresh.at, stale.at], [stale.at, fresh.at]] {
        let head = LiteClient::of_several(&servers, fresh.network).head().await.unwrap();
        assert_eq!(head.seqno(), 6);
    }
}

#[tokio::test]
async fn without_a_server_nothing_is_known() {
    let network = *devnet::Chain::new(common::genesis(1)).unwrap().network();
    let error = LiteClient::of_several(&[], network).head().await.unwrap_err();
    assert!(!error.is_peer_fault() && error.to_string().contains("no server"), "{error}");
}
