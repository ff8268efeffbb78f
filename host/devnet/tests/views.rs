//! What the typed readers say of the contracts, proven, beside what was done to them.

mod common;

use common::{BEGIN, Local, TON, start};
use payment::{Payout, SecretKey, Session};
use std::collections::BTreeMap;
use ton::contract::{ContractError, account_of, pool, root, vault};
use ton::forms::Control;
use ton::wallet::Wallet;
use ton::{Address, Cell, Ledger, ProvenAccount, message};
use tycho_types::models::StateInit;

async fn deploy(local: &Local, by: &Wallet, init: StateInit, value: u128) -> Address {
    let address = message::address_of(&init).unwrap();
    let deploy = message::internal(&address, value, true, Some(init), Cell::default()).unwrap();
    local.send(by, &[(deploy, 3)]).await;
    address
}

async fn call(local: &Local, by: &Wallet, to: &Address, body: Cell) -> ProvenAccount {
    local.send(by, &[(message::internal(to, TON / 10, true, None, body).unwrap(), 3)]).await;
    local.client.account(to).await.unwrap()
}

#[tokio::test]
async fn a_pool_is_read_as_it_was_made_and_registered() {
    let local = start(51).await;
    let owner = local.wallet(11, 100_000_000_000).await;
    let terms = pool::Terms { owner: owner.address().clone(), salt: 7, grace: 7200 };
    let address = deploy(&local, &owner, terms.state_init().unwrap(), 10 * TON).await;
    let keys = [1u8, 2].map(|seed| SecretKey::from_seed(&[seed; 32]));
    for (epoch, key) in (1..).zip(&keys) {
        let session = Session {
            global_id: local.network.global_id,
            pool: account_of(&address),
            epoch,
            key: key.public().to_bytes(),
            valid_until: BEGIN + 1000,
        };
        call(&local, &owner, &address, pool::register(&key.sign(session), 1_000_000_000).unwrap()).await;
    }
    let payout = Payout {
        global_id: local.network.global_id,
        pool: account_of(&address),
        epoch: 1,
        worker: account_of(owner.address()),
        total: 300_000_000,
    };
    let account = call(&local, &owner, &address, pool::claim(&keys[0].sign(payout)).unwrap()).await;
    let state = pool::read(&account).unwrap();
    assert_eq!((state.terms, state.epoch, state.closed), (terms, 2, false));
    let pots: Vec<_> = state.pots.iter().map(|(e, p)| (*e, p.key, p.funded, p.spent, p.workers)).collect();
    let key = |place: usize| keys[place].public().to_bytes();
    assert_eq!(pots, [(1, key(0), 1_000_000_000, 300_000_000, 1), (2, key(1), 1_000_000_000, 0, 0)]);
    assert!(state.reserve > 7_800_000_000 && state.reserve < 8_200_000_000, "{}", state.reserve);
    assert_eq!(pool::read_paid(&account, 1, owner.address()).unwrap(), 300_000_000);
    assert_eq!(pool::read_paid(&account, 2, owner.address()).unwrap(), 0);
    let view = pool::view(&account).unwrap();
    assert_eq!((view.seen.seqno, view.current().unwrap().key), (account.block().seqno(), key(1)));
}

#[tokio::test]
async fn a_vault_is_read_as_it_was_made_and_a_pool_is_no_vault() {
    let local = start(52).await;
    let owner = local.wallet(11, 100_000_000_000).await;
    let pool = pool::Terms { owner: owner.address().clone(), salt: 1, grace: 7200 };
    let pool = deploy(&local, &owner, pool.state_init().unwrap(), 2 * TON).await;
    let terms = vault::Terms {
        client_key: [9; 32],
        owner: owner.address().clone(),
        pool: pool.clone(),
        salt: u128::MAX,
    };
    let address = deploy(&local, &owner, terms.state_init().unwrap(), 5 * TON).await;
    let account = call(&local, &owner, &address, vault::start_close().unwrap()).await;
    let state = vault::read(&account).unwrap();
    assert_eq!((&state.terms, state.claimed, state.closed), (&terms, 0, false));
    assert_eq!(state.closes_at, account.block().gen_utime() + 86_400);
    assert_eq!(vault::view(&account).unwrap().pool, account_of(&pool));
    let other = local.client.account(&pool).await.unwrap();
    let error = vault::read(&other).unwrap_err();
    assert!(matches!(error, ContractError::Other { .. }) && error.to_string().contains("`vault`"), "{error}");
    let nobody = local.client.account(&Address::new(0, Default::default())).await.unwrap();
    assert!(vault::read(&nobody).unwrap_err().to_string().contains("code none"));
}

#[tokio::test]
async fn a_root_says_what_its_owners_put_into_the_book() {
    let local = start(53).await;
    let ann = local.wallet(11, 100_000_000_000).await;
    let owners = BTreeMap::from([(ann.address().clone(), 0)]);
    let terms = root::Terms { owners, threshold: 1, delay: 60 };
    let address = deploy(&local, &ann, terms.state_init().unwrap(), TON).await;
    let price =
        root::Price { base: 5_000, prompt: 10_000, cached: 2_500, completion: 30_000, reasoning: 20_000 };
    let proxy = root::Proxy { commission: 500, endpoint: "proxy.test:443".into() };
    let pool = Address::new(0, ton::HashBytes([3; 32]));
    let changes = [
        root::Change::SetPrice([1; 32], price),
        root::Change::SetProxy(pool.clone(), proxy.clone()),
        root::Change::SetRelease(4, [6; 32]),
    ];
    for change in &changes {
        call(&local, &ann, &address, root::propose(change).unwrap()).await;
    }
    local.order(Control::Advance { seconds: 60 }).await;
    let mut account = local.client.account(&address).await.unwrap();
    assert_eq!(root::read_rules(&account).unwrap(), (1, 60, 1, 3));
    for number in 0..3 {
        account = call(&local, &ann, &address, root::execute(number).unwrap()).await;
    }
    let book = root::read_book(&account).unwrap();
    assert_eq!((book.version, book.release_epoch, book.release_root), (3, 4, [6; 32]));
    assert_eq!(book.models, BTreeMap::from([([1; 32], price)]));
    assert_eq!(book.proxies, BTreeMap::from([(pool.clone(), proxy)]));
    for change in [root::Change::DropPrice([1; 32]), root::Change::DropProxy(pool)] {
        call(&local, &ann, &address, root::propose(&change).unwrap()).await;
    }
    local.order(Control::Advance { seconds: 60 }).await;
    for number in 3..5 {
        account = call(&local, &ann, &address, root::execute(number).unwrap()).await;
    }
    let book = root::read_book(&account).unwrap();
    assert!(book.models.is_empty() && book.proxies.is_empty());
}

#[tokio::test]
async fn a_key_of_this_boot_in_the_pool_shows_that_the_head_is_young_and_an_old_chain_cannot() {
    use std::time::Duration;
    // The same chain twice: one goes on, the other is an old picture of it, genuine and signed.
    let (alive, old) = (start(54).await, start(54).await);
    let owner = Wallet::from_seed(&[11; 32], alive.network.global_id).unwrap();
    let terms = pool::Terms { owner: owner.address().clone(), salt: 7, grace: 7200 };
    let mut pool_at = None;
    for chain in [&alive, &old] {
        chain.wallet(11, 100_000_000_000).await;
        pool_at = Some(deploy(chain, &owner, terms.state_init().unwrap(), 10 * TON).await);
    }
    let address = pool_at.unwrap();
    let fresh = SecretKey::from_seed(&[77; 32]);
    let key = fresh.public().to_bytes();
    let session = Session {
        global_id: alive.network.global_id,
        pool: account_of(&address),
        epoch: 1,
        key,
        valid_until: BEGIN + 1000,
    };
    call(&alive, &owner, &address, pool::register(&fresh.sign(session), 0).unwrap()).await;
    old.order(Control::Produce { blocks: 3 }).await;
    let ours =
        |account: &ProvenAccount| pool::view(account).ok()?.current().filter(|pot| pot.key == key).copied();
    let within = Duration::from_millis(300);
    assert!(ton::shown(&alive.client, &address, within, ours).await.unwrap().is_some());
    assert!(ton::shown(&old.client, &address, within, ours).await.unwrap().is_none());
}
