//! The client's whole way over TCP: every account, transaction and configuration here was proven to a signed block.

mod common;

use common::{TON, pay, start};
use ton::forms::{Control, Faults};
use ton::{Address, HashBytes, Ledger, LiteClient, message};

#[tokio::test]
async fn a_wallet_pays_another_and_the_books_balance() {
    let local = start(1).await;
    let alice = local.wallet(11, 10_000_000_000).await;
    let bob = local.wallet(12, 1_000_000_000).await;
    let after = local.send(&alice, &[pay(bob.address(), 3 * TON, false)]).await;
    let bob_after = local.client.account(bob.address()).await.unwrap();
    assert_eq!(bob_after.balance(), 4 * TON);
    assert!(after.balance() < 7 * TON && after.balance() > 6 * TON, "fees were taken: {}", after.balance());
    let facts = local.settle().await;
    let total = ["coins", "fees"].map(|what| facts[what].as_str().unwrap().parse::<u128>().unwrap());
    assert_eq!(total.iter().sum::<u128>(), devnet::FAUCET_BALANCE, "{facts}");
}

#[tokio::test]
async fn an_account_that_does_not_exist_is_proven_not_to() {
    let local = start(2).await;
    let nobody = Address::new(0, HashBytes([0x77; 32]));
    let account = local.client.account(&nobody).await.unwrap();
    assert!(!account.exists() && account.balance() == 0 && account.last_lt() == 0);
    let in_master = Address::new(-1, HashBytes([0x77; 32]));
    assert!(!local.client.account(&in_master).await.unwrap().exists());
}

#[tokio::test]
async fn an_account_of_the_masterchain_is_proven_in_its_own_state() {
    let local = start(3).await;
    let alice = local.wallet(11, 10_000_000_000).await;
    let master = Address::new(-1, HashBytes([0x55; 32]));
    local.send(&alice, &[pay(&master, TON, false)]).await;
    let account = local.client.account(&master).await.unwrap();
    assert_eq!((account.exists(), account.balance()), (true, TON));
}

#[tokio::test]
async fn a_payment_to_nobody_bounces_back_without_its_fees() {
    let local = start(4).await;
    let alice = local.wallet(11, 10_000_000_000).await;
    let nobody = Address::new(0, HashBytes([0x99; 32]));
    let before = local.send(&alice, &[pay(&nobody, TON, true)]).await;
    let after = local.client.account(alice.address()).await.unwrap();
    assert!(!local.client.account(&nobody).await.unwrap().exists());
    assert!(after.balance() > 9 * TON && after.balance() < 10 * TON, "{}", after.balance());
    assert!(after.last_lt() >= before.last_lt());
    let newest = &local.client.transactions(&after, 0, 1).await.unwrap()[0];
    let message = newest.in_msg.as_ref().unwrap().parse::<tycho_types::models::OwnedMessage>().unwrap();
    let tycho_types::models::MsgInfo::Int(info) = message.info else {
        panic!("an internal message comes back")
    };
    assert!(info.bounced);
}

#[tokio::test]
async fn transactions_are_chained_to_the_proven_state() {
    let local = start(5).await;
    let alice = local.wallet(11, 50_000_000_000).await;
    let bob = Address::new(0, HashBytes([0x42; 32]));
    let first = local.send(&alice, &[pay(&bob, TON, false)]).await;
    for _ in 0..3 {
        local.send(&alice, &[pay(&bob, TON, false)]).await;
    }
    let account = local.client.account(alice.address()).await.unwrap();
    let all = local.client.transactions(&account, 0, 100).await.unwrap();
    let since = local.client.transactions(&account, first.last_lt(), 100).await.unwrap();
    let one = local.client.transactions(&account, 0, 1).await.unwrap();
    assert_eq!((all.len(), since.len(), one.len()), (5, 3, 1));
    assert!(all.windows(2).all(|pair| pair[0].lt > pair[1].lt && pair[0].previous.0 == pair[1].hash));
    assert!(all.iter().take(4).all(|t| t.exit_code == Some(0) && t.gas_used > 0 && !t.aborted));
}

#[tokio::test]
async fn many_messages_of_one_transfer_all_arrive() {
    let local = start(6).await;
    let alice = local.wallet(11, 100_000_000_000).await;
    let friends: Vec<_> = (0..100).map(|n| Address::new(0, HashBytes([n; 32]))).collect();
    let messages: Vec<_> = friends.iter().map(|to| pay(to, TON / 10, false)).collect();
    local.send(&alice, &messages).await;
    for friend in &friends {
        assert_eq!(local.client.account(friend).await.unwrap().balance(), TON / 10);
    }
}

#[tokio::test]
async fn storage_costs_more_after_a_year() {
    let local = start(7).await;
    let alice = local.wallet(11, 10_000_000_000).await;
    let bob = Address::new(0, HashBytes([0x42; 32]));
    let early = local.send(&alice, &[pay(&bob, TON, false)]).await;
    let second = local.send(&alice, &[pay(&bob, TON, false)]).await;
    local.order(Control::Advance { seconds: 365 * 86_400 }).await;
    let late = local.send(&alice, &[pay(&bob, TON, false)]).await;
    let (soon, year) = (early.balance() - second.balance(), second.balance() - late.balance());
    assert!(year > soon, "{soon} then {year}");
    assert!(late.block().gen_utime() >= early.block().gen_utime() + 365 * 86_400);
}

#[tokio::test]
async fn duplicated_and_delayed_broadcasts_pay_once() {
    let local = start(8).await;
    let alice = local.wallet(11, 10_000_000_000).await;
    let bob = Address::new(0, HashBytes([0x42; 32]));
    let faults =
        Faults { duplicate_externals: 3, delay_blocks: 2, reorder: true, seed: 7, ..Faults::default() };
    local.order(Control::Faults(faults)).await;
    local.send(&alice, &[pay(&bob, TON, false), pay(&bob, TON, false)]).await;
    assert_eq!(local.client.account(&bob).await.unwrap().balance(), 2 * TON);
    assert_eq!(local.settle().await["faults"]["duplicate_externals"], 3, "the chain says what it does");
}

#[tokio::test]
async fn a_lost_broadcast_changes_nothing() {
    let local = start(9).await;
    let alice = local.wallet(11, 10_000_000_000).await;
    local.order(Control::Faults(Faults { lose_one_in: 1, ..Faults::default() })).await;
    let before = local.client.account(alice.address()).await.unwrap();
    let transfer = alice.transfer(0, u32::MAX, &[pay(alice.address(), TON, false)]).unwrap();
    local.client.send(&transfer).await.unwrap();
    local.settle().await;
    assert_eq!(local.client.account(alice.address()).await.unwrap().last_lt(), before.last_lt());
}

#[tokio::test]
async fn waiting_ends_with_a_newer_block_or_with_none() {
    let local = start(10).await;
    let head = local.client.head().await.unwrap();
    let none = local.client.head_after(head.seqno(), std::time::Duration::from_millis(50)).await.unwrap();
    assert!(none.is_none());
    let (newer, _) = tokio::join!(
        local.client.head_after(head.seqno(), std::time::Duration::from_secs(10)),
        local.order(Control::Produce { blocks: 1 }),
    );
    assert_eq!(newer.unwrap().unwrap().seqno(), head.seqno() + 1);
}

#[tokio::test]
async fn a_chain_with_another_zero_state_is_refused() {
    let (ours, other) = (start(20).await, start(21).await);
    let error = LiteClient::new(other.at, ours.network).head().await.unwrap_err();
    assert!(error.is_peer_fault(), "{error}");
    assert!(error.to_string().contains("validators in the zero state"), "{error}");
}

#[tokio::test]
async fn only_external_messages_are_broadcast() {
    let local = start(22).await;
    let internal =
        message::internal(&Address::new(0, HashBytes([1; 32])), 1, false, None, Default::default()).unwrap();
    let error = local.client.send(&internal).await.unwrap_err();
    assert!(!error.is_peer_fault() && error.to_string().contains("another kind"), "{error}");
}
