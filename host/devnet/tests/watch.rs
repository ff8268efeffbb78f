//! What a guest's daemon sees of the chain: `daemon::ledger` over a local chain, with servers that are away, hang or lie.

mod common;

use common::{BEGIN, Local, TON, start};
use daemon::Clock;
use daemon::ledger::{PoolSight, Setup, Sight, Watch, account};
use payment::{SecretKey, Session};
use protocol::config::LedgerConfig;
use protocol::market::Hex32;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use ton::contract::root::{Change, Price, Proxy};
use ton::contract::{account_of, pool, root, vault};
use ton::forms::Control;
use ton::wallet::Wallet;
use ton::{Address, Cell, message};
use tycho_types::models::StateInit;

/// How long something may take that is bound to come.
const LONG: Duration = Duration::from_secs(60);

/// The wallet sends a contract a message of two TON, with its first state where it has none.
async fn tell(local: &Local, wallet: &Wallet, to: &Address, init: Option<StateInit>, body: Cell) {
    let message = message::internal(to, 2 * TON, true, init, body).expect("a message");
    local.send(wallet, &[(message, 3)]).await;
}

/// A root and a pool of one owner.
struct Contracts {
    owner: Wallet,
    root: Address,
    pool: Address,
}

async fn contracts(local: &Local) -> Contracts {
    let owner = local.wallet(1, 100_000_000_000).await;
    let terms =
        root::Terms { owners: BTreeMap::from([(owner.address().clone(), 0)]), threshold: 1, delay: 0 };
    let init = terms.state_init().expect("a state");
    let root = message::address_of(&init).expect("an address");
    tell(local, &owner, &root, Some(init), ton::contract::top_up().expect("a body")).await;
    let init =
        pool::Terms { owner: owner.address().clone(), salt: 1, grace: 7200 }.state_init().expect("a state");
    let pool = message::address_of(&init).expect("an address");
    tell(local, &owner, &pool, Some(init), ton::contract::top_up().expect("a body")).await;
    Contracts { owner, root, pool }
}

impl Contracts {
    async fn change(&self, local: &Local, number: u32, change: &Change) {
        tell(local, &self.owner, &self.root, None, root::propose(change).expect("a body")).await;
        tell(local, &self.owner, &self.root, None, root::execute(number).expect("a body")).await;
    }

    async fn register(&self, local: &Local, epoch: u32, key: &SecretKey) {
        let (global_id, pool) = (local.network.global_id, account_of(&self.pool));
        let session = Session { global_id, pool, epoch, key: key.public().to_bytes(), valid_until: u32::MAX };
        let body = pool::register(&key.sign(session), 500_000_000).expect("a body");
        tell(local, &self.owner, &self.pool, None, body).await;
    }

    fn config(&self, local: &Local) -> LedgerConfig {
        LedgerConfig {
            global_id: local.network.global_id,
            zero_root: Hex32(local.network.zero_root.0),
            zero_file: Hex32(local.network.zero_file.0),
            root: account(account_of(&self.root)),
        }
    }
}

/// A watch that ends with the sender.
fn watching(config: &LedgerConfig, servers: Vec<SocketAddr>) -> (Watch, watch::Sender<bool>) {
    let (stop, stopping) = watch::channel(false);
    let earner = Some(payment::Address { workchain: 0, hash: [3; 32] });
    let setup = Setup { name: "test", config, servers, earner, clock: Clock::new(0) };
    (Watch::start(setup, stopping), stop)
}

async fn until<T>(of: &mut watch::Receiver<Sight<T>>, what: impl Fn(&Sight<T>) -> bool) -> Sight<T> {
    tokio::time::timeout(LONG, of.wait_for(what)).await.expect("it is shown").expect("the task lives").clone()
}

fn epoch(sight: &Sight<PoolSight>) -> u32 {
    sight.there().map_or(0, |pool| pool.view.epoch)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_sees_book_pool_and_vault_and_what_is_none_of_them() {
    let local = start(90).await;
    let here = contracts(&local).await;
    let (model, price) = ([7; 32], Price { base: 9, prompt: 1, cached: 1, completion: 1, reasoning: 1 });
    here.change(&local, 0, &Change::SetPrice(model, price)).await;
    let proxy = Proxy { commission: 250, endpoint: "127.0.0.1:1".into() };
    here.change(&local, 1, &Change::SetProxy(here.pool.clone(), proxy)).await;
    let (watch, _stop) = watching(&here.config(&local), vec![local.at]);
    let mut book = watch.book();
    let seen =
        until(&mut book, |sight| sight.there().is_some_and(|book| !book.book.proxies.is_empty())).await;
    let seen = seen.there().unwrap();
    assert_eq!(seen.price(&model).unwrap().base, 9);
    assert_eq!(seen.commission(&account_of(&here.pool)).unwrap().kept(10_000), 250);
    assert!(watch.now() >= u64::from(BEGIN), "a signed block raises the clock");

    let mut pool = watch.pool(account_of(&here.pool)).unwrap();
    until(&mut pool, |sight| sight.there().is_some()).await;
    let key = SecretKey::from_seed(&[5; 32]);
    here.register(&local, 1, &key).await;
    let shown = until(&mut pool, |sight| epoch(sight) == 1).await;
    let shown = shown.there().unwrap();
    assert_eq!(shown.view.current().unwrap().key, key.public().to_bytes());
    assert_eq!(shown.paid, BTreeMap::from([(1, 0)]));

    let terms = vault::Terms {
        client_key: SecretKey::from_seed(&[6; 32]).public().to_bytes(),
        owner: here.owner.address().clone(),
        pool: here.pool.clone(),
        salt: 0,
    };
    let init = terms.state_init().unwrap();
    let address = message::address_of(&init).unwrap();
    let mut vault = watch.vault(account_of(&address)).unwrap();
    assert!(matches!(until(&mut vault, |sight| !matches!(sight, Sight::Waiting)).await, Sight::Missing(_)));
    tell(&local, &here.owner, &address, Some(init), ton::contract::top_up().unwrap()).await;
    let opened = until(&mut vault, |sight| sight.there().is_some()).await;
    assert_eq!(opened.there().unwrap().pool, account_of(&here.pool));
    let mut other = watch.vault(account_of(&here.pool)).unwrap();
    assert!(matches!(until(&mut other, |sight| !matches!(sight, Sight::Waiting)).await, Sight::Missing(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_hang_or_send_garbage_beside_an_honest_one_change_nothing() {
    let local = start(91).await;
    let here = contracts(&local).await;
    let garbage = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut servers = vec![garbage.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap(), local.at];
    servers.push(hangs.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = garbage.accept().await.unwrap();
            let _ = tcp.write_all(b"\0\0\0\x05lies!\xff\xff\xff\xff").await;
        }
    });
    let (watch, _stop) = watching(&here.config(&local), servers);
    let mut pool = watch.pool(account_of(&here.pool)).unwrap();
    until(&mut pool, |sight| sight.there().is_some()).await;
    here.register(&local, 1, &SecretKey::from_seed(&[5; 32])).await;
    until(&mut pool, |sight| epoch(sight) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_view_stays_while_the_chain_is_away_and_goes_on_when_it_is_back() {
    let local = start(92).await;
    let here = contracts(&local).await;
    // A way to the chain that can be cut.
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, to) = (gate.local_addr().unwrap(), local.at);
    let (open, opened) = watch::channel(true);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = gate.accept().await.unwrap();
            let mut opened = opened.clone();
            tokio::spawn(async move {
                if !*opened.borrow() {
                    return;
                }
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = opened.wait_for(|open| !open) => {}
                }
            });
        }
    });
    let (watch, _stop) = watching(&here.config(&local), vec![at]);
    let mut pool = watch.pool(account_of(&here.pool)).unwrap();
    until(&mut pool, |sight| sight.there().is_some()).await;
    open.send(false).unwrap();
    let troubled = async {
        while watch.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, troubled).await.expect("it notices");
    let (had, block) = (pool.borrow().there().unwrap().view.clone(), watch.head().unwrap());
    here.register(&local, 1, &SecretKey::from_seed(&[5; 32])).await;
    assert_eq!((&pool.borrow().there().unwrap().view, watch.head().unwrap()), (&had, block));
    open.send(true).unwrap();
    until(&mut pool, |sight| epoch(sight) == 1).await;
    assert!(watch.head().unwrap() > block);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_another_than_the_pinned_one_shows_nothing() {
    let (local, other) = (start(93).await, start(94).await);
    let here = contracts(&local).await;
    let (watch, _stop) = watching(&here.config(&local), vec![other.at]);
    let mut heads = watch.heads();
    let troubled = async {
        while watch.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, troubled).await.expect("it notices");
    other.order(Control::Produce { blocks: 3 }).await;
    assert_eq!(*heads.borrow_and_update(), None);
    let (asked, _more) = watching(&here.config(&local), vec![other.at, local.at]);
    let mut pool = asked.pool(account_of(&here.pool)).unwrap();
    until(&mut pool, |sight| sight.there().is_some()).await;
}
