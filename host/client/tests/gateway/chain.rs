//! What the gateway sees of a chain, through proofs: a LOCAL TEST CHAIN in this process.

#[path = "../../../devnet/tests/common/mod.rs"]
mod common;

use client::gateway::{Facts, look, watch_chain};
use common::{Local, TON, start};
use payment::price::Price;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use ton::contract::{account_of, pool, root, vault};
use ton::forms::Control;
use ton::wallet::Wallet;
use ton::{Address, Cell, LiteClient, message};
use tycho_types::models::StateInit;

async fn deploy(local: &Local, by: &Wallet, init: StateInit, value: u128) -> Address {
    let address = message::address_of(&init).unwrap();
    let deploy = message::internal(&address, value, true, Some(init), Cell::default()).unwrap();
    local.send(by, &[(deploy, 3)]).await;
    address
}

async fn change(local: &Local, owner: &Wallet, root: &Address, number: u32, change: root::Change) {
    let steps = [root::propose(&change).unwrap(), root::execute(number).unwrap()];
    for body in steps {
        let call = message::internal(root, TON / 10, true, None, body).unwrap();
        local.send(owner, &[(call, 3)]).await;
        local.order(Control::Advance { seconds: 2 }).await;
        local.settle().await;
    }
}

#[tokio::test]
async fn prices_proxies_and_vaults_are_what_the_chain_proves_and_stay_when_it_is_gone() {
    let local = start(61).await;
    let owner = local.wallet(11, 100_000_000_000).await;
    let owners = BTreeMap::from([(owner.address().clone(), 0)]);
    let terms = root::Terms { owners, threshold: 1, delay: 1 };
    let root = deploy(&local, &owner, terms.state_init().unwrap(), TON).await;
    let pool_terms = pool::Terms { owner: owner.address().clone(), salt: 1, grace: 7200 };
    let pool = deploy(&local, &owner, pool_terms.state_init().unwrap(), 2 * TON).await;
    let price =
        root::Price { base: 5_000, prompt: 10_000, cached: 2_500, completion: 30_000, reasoning: 20_000 };
    change(&local, &owner, &root, 0, root::Change::SetPrice([1; 32], price)).await;
    let proxy = root::Proxy { commission: 500, endpoint: "proxy.test:443".into() };
    change(&local, &owner, &root, 1, root::Change::SetProxy(pool.clone(), proxy)).await;
    let terms =
        vault::Terms { client_key: [9; 32], owner: owner.address().clone(), pool: pool.clone(), salt: 3 };
    let vault = deploy(&local, &owner, terms.state_init().unwrap(), 5 * TON).await;

    let asked = [account_of(&vault), account_of(owner.address())];
    let facts = look(&local.client, &account_of(&root), &asked).await.unwrap();
    let expected =
        Price { base: 5_000, prompt: 10_000, cached: 2_500, completion: 30_000, reasoning: 20_000 };
    assert_eq!(facts.prices, BTreeMap::from([([1; 32], expected)]));
    assert_eq!(facts.proxies[&account_of(&pool)].endpoint, "proxy.test:443");
    let (address, view) = facts.vaults[0];
    assert_eq!((address, view.client_key, view.pool), (asked[0], [9; 32], account_of(&pool)));
    assert!(view.free > 4_900_000_000, "{}", view.free);
    assert_eq!(facts.wrong.len(), 1, "a wallet is no vault");
    assert!(look(&local.client, &account_of(&pool), &[]).await.is_err(), "a pool is no root");

    // Watched: seen at once; a server that is gone takes nothing back.
    let (to, mut seen) = watch::channel(Arc::new(Facts::default()));
    let failures = Arc::new(AtomicUsize::new(0));
    let counted = failures.clone();
    let client = Arc::new(LiteClient::new(local.at, local.network));
    let watching = tokio::spawn(watch_chain(client, account_of(&root), vec![asked[0]], to, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    }));
    seen.wait_for(|facts| facts.seqno > 0).await.unwrap();
    assert_eq!(seen.borrow().prices.len(), 1);
    drop(seen);
    tokio::time::timeout(Duration::from_secs(60), watching)
        .await
        .expect("it ends with its last reader")
        .unwrap();

    let (to, seen) = watch::channel(Arc::new(facts.clone()));
    let nobody = Arc::new(LiteClient::of_several(&[], local.network));
    let counted = failures.clone();
    let before = failures.load(Ordering::SeqCst);
    tokio::spawn(watch_chain(nobody, account_of(&root), vec![], to, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    }));
    crate::rig::until(|| failures.load(Ordering::SeqCst) > before).await;
    assert_eq!(**seen.borrow(), facts);
}
