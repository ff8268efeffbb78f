//! What each party refuses, and whose fault it calls it.

use payment::client::{Client, Ledger, Limits};
use payment::log::Recovered;
use payment::price::{Commission, Price, Tokens};
use payment::proxy::{Facts, Phase, Proxy, Settled, Terms};
use payment::receipt::{End, Receipt};
use payment::view::{PoolView, PotView, Seen, VaultView};
use payment::worker::{Rules, Worker};
use payment::{Address, Cap, Payout, Refused, SecretKey, Signed, Use, Verified};
use std::collections::BTreeMap;

const NET: i32 = -239;
const POOL: Address = Address { workchain: 0, hash: [1; 32] };
const VAULT: Address = Address { workchain: 0, hash: [2; 32] };
const ME: Address = Address { workchain: 0, hash: [3; 32] };
const NOW: u64 = 1_800_000_000;
/// One nanoTON a token.
const PRICE: Price = Price { base: 1_000_000, prompt: 10_000, cached: 0, completion: 10_000, reasoning: 0 };

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn tokens(count: u32) -> Tokens {
    Tokens { completion: count, ..Tokens::default() }
}

fn pool(epoch: u32, holder: &SecretKey, funded: u64) -> PoolView {
    let pot = PotView { key: holder.public().to_bytes(), closes_at: 0, funded, spent: 0 };
    let seen = Seen { seqno: epoch * 10, time: NOW as u32 };
    PoolView { seen, grace: 7_200, epoch, pots: BTreeMap::from([(epoch, pot)]), closed: false }
}

fn vault() -> VaultView {
    VaultView {
        seen: Seen { seqno: 1, time: NOW as u32 },
        client_key: key(9).public().to_bytes(),
        pool: POOL,
        claimed: 0,
        free: 1_000,
        closes_at: 0,
        closed: false,
    }
}

fn terms() -> Terms {
    Terms {
        global_id: NET,
        pool: POOL,
        commission: Commission::new(1_000),
        max_view_age: 600,
        claim_margin: 900,
        registration_window: 600,
        max_workers: 1,
    }
}

/// A proxy whose session is registered, with a pot of 500.
fn proxy() -> Proxy {
    let mut proxy = Proxy::new(terms(), key(1), Recovered::default());
    assert_eq!(proxy.on_pool(pool(1, &key(1), 500)), Phase::Active { epoch: 1 });
    proxy.on_vault(VAULT, vault()).unwrap().once_written();
    proxy
}

fn cap(signer: u8, session: u8, amount: u64) -> Verified<Cap> {
    let session_key = key(session).public().to_bytes();
    let cap =
        Cap { global_id: NET, vault: VAULT, valid_until: (NOW + 5_000) as u32, session_key, cap: amount };
    key(signer).sign(cap).verify(&key(signer).public()).unwrap()
}

fn facts(request: u64) -> Facts {
    let (request_hash, other) = ([7; 32], [8; 32]);
    Facts {
        request,
        time: NOW,
        request_hash,
        response_hash: other,
        model_root: other,
        release: other,
        evidence: other,
    }
}

fn settle(proxy: &mut Proxy, id: u64, count: u32) -> Settled {
    proxy.finish(id, ME, &tokens(count), End::Complete, &facts(id), NOW).unwrap().once_written()
}

#[test]
fn a_request_is_charged_once_at_its_price_and_within_its_hold() {
    let mut proxy = proxy();
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    assert_eq!(proxy.reserve(1, VAULT, PRICE, &tokens(200), NOW).unwrap().once_written(), 200);
    let settled = settle(&mut proxy, 1, 150);
    assert_eq!((settled.charged, settled.fee), (150, 135));
    assert_eq!(settled.used.voucher.total, 150);
    let again = proxy.finish(1, ME, &tokens(1), End::Complete, &facts(1), NOW);
    assert!(matches!(again, Err(Refused::NoSuchRequest { id: 1 })));
    proxy.reserve(2, VAULT, PRICE, &tokens(100), NOW).unwrap().once_written();
    assert_eq!(
        settle(&mut proxy, 2, 4_000).charged,
        100,
        "a worker that counts too many tokens gets the hold"
    );
}

#[test]
fn a_released_request_is_not_charged_and_its_hold_is_free_again() {
    let mut proxy = proxy();
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    proxy.reserve(1, VAULT, PRICE, &tokens(300), NOW).unwrap().once_written();
    assert!(matches!(
        proxy.reserve(2, VAULT, PRICE, &tokens(1), NOW),
        Err(Refused::CapTooLow { need: 301, .. })
    ));
    proxy.release(1).unwrap().once_written();
    proxy.reserve(2, VAULT, PRICE, &tokens(300), NOW).unwrap().once_written();
    assert!(proxy.claims().is_empty());
}

#[test]
fn caps_that_do_not_fit_are_refused() {
    let mut proxy = proxy();
    let mut refused = |cap: Verified<Cap>| proxy.on_cap(cap, NOW).map(|w| w.once_written()).unwrap_err();
    let by_another = refused(cap(8, 1, 10));
    let for_another = refused(cap(9, 2, 10));
    assert!(matches!((&by_another, &for_another), (Refused::ForeignCap { .. }, Refused::ForeignCap { .. })));
    assert!(by_another.is_peer_fault());
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    assert!(matches!(proxy.on_cap(cap(9, 1, 299), NOW), Err(Refused::LowerCap { had: 300, found: 299, .. })));
    let late = proxy.on_cap(cap(9, 1, 400), NOW + 4_500).map(|w| w.once_written()).unwrap_err();
    assert!(matches!(late, Refused::CapExpires { .. }) && !late.is_peer_fault());
}

#[test]
fn neither_cap_nor_deposit_nor_pot_is_overdrawn() {
    let mut proxy = proxy();
    let reserve = |proxy: &mut Proxy, id, count| {
        proxy.reserve(id, VAULT, PRICE, &tokens(count), NOW).map(|written| written.once_written())
    };
    proxy.on_cap(cap(9, 1, 5_000), NOW).unwrap().once_written();
    assert!(matches!(
        reserve(&mut proxy, 1, 1_001),
        Err(Refused::DepositTooLow { need: 1_001, found: 1_000, .. })
    ));
    // 90 % of 600 are more than the pot's 500.
    assert!(matches!(reserve(&mut proxy, 1, 600), Err(Refused::PotShort { fee: 540, funded: 500, .. })));
    assert_eq!(reserve(&mut proxy, 1, 555), Ok(555));
    assert!(matches!(reserve(&mut proxy, 2, 2), Err(Refused::PotShort { promised: 500, .. })));
    assert!(matches!(proxy.surplus(1, NOW), Err(Refused::PotShort { .. })));
}

#[test]
fn without_a_fresh_lease_nothing_is_promised() {
    let mut waiting = Proxy::new(terms(), key(1), Recovered::default());
    assert!(waiting.session(NOW).is_none(), "no view of the pool yet");
    waiting.on_pool(pool(4, &key(5), 500));
    assert_eq!(waiting.session(NOW).map(|s| s.voucher.epoch), Some(5));
    let refused = waiting.reserve(1, VAULT, PRICE, &tokens(1), NOW).map(|w| w.once_written());
    assert_eq!(refused, Err(Refused::NotRegistered));

    let mut proxy = proxy();
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    assert!(proxy.session(NOW).is_none(), "one boot is one lease");
    assert!(matches!(proxy.reserve(1, VAULT, PRICE, &tokens(1), NOW + 601), Err(Refused::StaleView { .. })));
    proxy.reserve(1, VAULT, PRICE, &tokens(10), NOW).unwrap().once_written();
    assert_eq!(proxy.on_pool(pool(2, &key(6), 900)), Phase::Over { epoch: 1 });
    assert_eq!(
        proxy.on_pool(pool(1, &key(1), 500)),
        Phase::Over { epoch: 1 },
        "an older view brings nothing back"
    );
    assert!(matches!(
        proxy.reserve(2, VAULT, PRICE, &tokens(1), NOW),
        Err(Refused::SessionOver { epoch: 1 })
    ));
    let late = proxy.finish(1, ME, &tokens(1), End::Complete, &facts(1), NOW);
    assert!(matches!(late, Err(Refused::SessionOver { .. })), "pot 1 is gone in that view: no voucher on it");
}

#[test]
fn a_session_that_was_replaced_still_settles_while_its_pot_is_open() {
    let mut proxy = proxy();
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    proxy.reserve(1, VAULT, PRICE, &tokens(100), NOW).unwrap().once_written();
    let mut view = pool(2, &key(6), 900);
    let closes_at = (NOW + 7_200) as u32;
    view.pots.insert(1, PotView { key: key(1).public().to_bytes(), closes_at, funded: 500, spent: 0 });
    proxy.on_pool(view);
    let finish = |proxy: &mut Proxy, now| proxy.finish(1, ME, &tokens(9), End::Complete, &facts(1), now);
    assert!(matches!(finish(&mut proxy, NOW + 6_500), Err(Refused::SessionOver { .. })), "too late to cash");
    assert_eq!(finish(&mut proxy, NOW + 6_000).unwrap().once_written().payout.voucher.epoch, 1);
}

#[test]
fn a_worker_that_the_session_cannot_pay_is_not_worked_with() {
    let mut proxy = proxy();
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    proxy.reserve(1, VAULT, PRICE, &tokens(10), NOW).unwrap().once_written();
    proxy.reserve(2, VAULT, PRICE, &tokens(10), NOW).unwrap().once_written();
    settle(&mut proxy, 1, 10);
    assert!(!proxy.admits(&VAULT));
    let refused = proxy.finish(2, VAULT, &tokens(1), End::Complete, &facts(2), NOW);
    assert!(matches!(refused, Err(Refused::TooManyWorkers { .. })));
    assert_eq!(
        settle(&mut proxy, 2, 10).payout.voucher.total,
        18,
        "the hold is still there for a worker it knows"
    );
}

#[test]
fn a_vault_that_closes_or_pays_another_gets_no_service() {
    let mut proxy = proxy();
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    let closing = VaultView { closes_at: (NOW + 800) as u32, seen: Seen { seqno: 2, time: 0 }, ..vault() };
    proxy.on_vault(VAULT, closing).unwrap().once_written();
    assert!(matches!(proxy.reserve(1, VAULT, PRICE, &tokens(1), NOW), Err(Refused::VaultCloses { .. })));
    let other = VaultView { pool: VAULT, ..vault() };
    assert!(matches!(proxy.on_vault(ME, other), Err(Refused::NotOurVault { .. })));
}

fn client(limits: Limits) -> Client {
    let mut client = Client::new(NET, VAULT, key(9), limits, Ledger::default());
    client.on_vault(vault());
    client.attested(key(1).public(), 0).unwrap();
    client
}

const WIDE: Limits = Limits { per_request: 1_000, per_day: 1_000, cap_lifetime: 86_400 };

/// What a session signs for request 1, changed by `with`.
fn answer(with: impl Fn(&mut Receipt, &mut Use)) -> (Signed<Use>, Signed<Receipt>) {
    let mut proxy = proxy();
    proxy.on_cap(cap(9, 1, 300), NOW).unwrap().once_written();
    proxy.reserve(1, VAULT, PRICE, &tokens(100), NOW).unwrap().once_written();
    let settled = settle(&mut proxy, 1, 60);
    let (mut receipt, mut used) = (settled.receipt.voucher, settled.used.voucher);
    with(&mut receipt, &mut used);
    (key(1).sign(used), key(1).sign(receipt))
}

#[test]
fn a_client_believes_only_a_receipt_of_its_own_request() {
    let refused = |with: &dyn Fn(&mut Receipt, &mut Use)| {
        let mut client = client(WIDE);
        client.request(1, [7; 32], PRICE, &tokens(100), NOW).unwrap();
        let (used, receipt) = answer(with);
        let refused = client.settle(1, &used, &receipt);
        assert!(refused.as_ref().err().is_none_or(Refused::is_peer_fault), "{refused:?}");
        refused
    };
    assert_eq!(refused(&|_, _| {}), Ok(60));
    assert!(matches!(refused(&|r, _| r.charged = 61), Err(Refused::Voucher(_))), "more than the tokens cost");
    let dear = refused(&|r, u| (r.tokens, r.charged, r.total, u.total) = (tokens(101), 101, 101, 101));
    assert!(
        matches!(dear, Err(Refused::Overcharged { found: 101, expected: 100, .. })),
        "more than was held"
    );
    assert!(matches!(refused(&|r, u| (r.total, u.total) = (101, 101)), Err(Refused::Overcharged { .. })));
    assert!(matches!(refused(&|r, u| (r.total, u.total) = (61, 61)), Err(Refused::Overcharged { .. })));
    assert!(matches!(refused(&|_, u| u.total = 61), Err(Refused::WrongReceipt { field: "use" })));
    assert!(matches!(refused(&|r, _| r.request = 2), Err(Refused::WrongReceipt { field: "number" })));
    assert!(matches!(refused(&|r, _| r.request_hash = [0; 32]), Err(Refused::WrongReceipt { .. })));
    assert!(matches!(refused(&|r, _| r.price.base *= 2), Err(Refused::WrongReceipt { field: "price" })));
    assert!(matches!(refused(&|r, _| r.vault = ME), Err(Refused::WrongReceipt { .. })));
}

#[test]
fn another_requests_hold_pays_for_no_overcharge() {
    let mut client = client(WIDE);
    for id in [1, 2] {
        client.request(id, [7; 32], PRICE, &tokens(100), NOW).unwrap();
    }
    let (used, receipt) =
        answer(|r, u| (r.tokens, r.charged, r.total, u.total) = (tokens(101), 101, 101, 101));
    let refused = client.settle(1, &used, &receipt);
    assert!(matches!(refused, Err(Refused::Overcharged { what: "the charge of a request", found: 101, .. })));
}

#[test]
fn a_receipt_by_a_key_that_was_not_attested_is_refused() {
    let mut client = client(WIDE);
    client.request(1, [7; 32], PRICE, &tokens(100), NOW).unwrap();
    let (used, receipt) = answer(|_, _| {});
    let forged = key(2).sign(receipt.voucher);
    assert!(matches!(client.settle(1, &used, &forged), Err(Refused::Voucher(_))));
    assert!(matches!(client.settle(1, &key(2).sign(used.voucher), &receipt), Err(Refused::Voucher(_))));
    assert_eq!(client.settle(1, &used, &receipt), Ok(60), "what was refused changed nothing");
}

#[test]
fn a_client_stays_within_its_limits_and_its_deposit() {
    let mut small = client(Limits { per_request: 50, per_day: 120, cap_lifetime: 60 });
    let ask = |client: &mut Client, id, count, now| {
        client.request(id, [7; 32], PRICE, &tokens(count), now).map(|cap| cap.voucher.cap)
    };
    assert!(matches!(ask(&mut small, 1, 51, NOW), Err(Refused::OverLimit { what: "one request", .. })));
    assert_eq!(ask(&mut small, 1, 50, NOW), Ok(50));
    assert_eq!(ask(&mut small, 2, 50, NOW), Ok(100));
    assert!(matches!(ask(&mut small, 3, 50, NOW), Err(Refused::OverLimit { what: "a day", .. })));
    small.refused(1);
    assert_eq!(ask(&mut small, 3, 50, NOW), Ok(100), "a refused request's part of the cap is used again");
    small.abandon(2);
    assert!(
        matches!(ask(&mut small, 4, 50, NOW), Err(Refused::OverLimit { .. })),
        "an abandoned one's is not"
    );
    let mut wide = client(Limits { per_request: 5_000, per_day: 5_000, ..WIDE });
    assert!(matches!(ask(&mut wide, 1, 1_001, NOW), Err(Refused::DepositTooLow { .. })));
}

#[test]
fn a_client_signs_for_nobody_whom_it_did_not_attest_and_believes_no_floor_above_its_caps() {
    let mut alone = Client::new(NET, VAULT, key(9), WIDE, Ledger::default());
    alone.on_vault(vault());
    let asked = alone.request(1, [7; 32], PRICE, &tokens(1), NOW);
    assert!(matches!(asked, Err(Refused::NotAttested { .. })));
    assert!(matches!(alone.attested(key(1).public(), 1), Err(Refused::Overcharged { found: 1, .. })));
    let ledger = Ledger { used: 10, allowed: 70, ..Ledger::default() };
    let mut again = Client::new(NET, VAULT, key(9), WIDE, ledger);
    again.on_vault(vault());
    assert!(again.attested(key(1).public(), 71).is_err());
    assert_eq!(again.attested(key(1).public(), 60), Ok(()), "what a boot before reserved counts as spent");
    let cap = again.request(1, [7; 32], PRICE, &tokens(20), NOW).unwrap();
    assert_eq!(cap.voucher.cap, 80);
}

fn worker() -> Worker {
    let rules = Rules {
        global_id: NET,
        me: ME,
        credit: 10,
        float: 100,
        cash_after: 3_000,
        max_view_age: 600,
        least_grace: 7_200,
    };
    let mut worker = Worker::new(rules);
    worker.attested(POOL, key(1).public());
    worker.on_pool(POOL, pool(1, &key(1), 500), &BTreeMap::new());
    worker
}

fn payout(signer: u8, total: u64) -> Signed<Payout> {
    key(signer).sign(Payout { global_id: NET, pool: POOL, epoch: 1, worker: ME, total })
}

#[test]
fn a_worker_works_only_for_a_current_attested_session_that_pays() {
    let mut worker = worker();
    assert_eq!(worker.offer(POOL, 50, NOW), Ok(1));
    assert!(matches!(worker.offer(POOL, 501, NOW), Err(Refused::PotShort { .. })));
    assert!(matches!(worker.offer(POOL, 1, NOW + 601), Err(Refused::StaleView { .. })));
    worker.delivered(POOL, 1, 11, NOW);
    let unpaid = worker.offer(POOL, 1, NOW).unwrap_err();
    assert!(matches!(unpaid, Refused::Unpaid { owed: 11, credit: 10 }) && unpaid.is_peer_fault());
    worker.on_payout(payout(1, 11)).unwrap();
    assert_eq!(worker.offer(POOL, 1, NOW), Ok(1));
    worker.on_pool(POOL, pool(2, &key(6), 900), &BTreeMap::new());
    assert!(
        matches!(worker.offer(POOL, 1, NOW), Err(Refused::NotAttested { .. })),
        "a key that nobody saw attested"
    );
    let short = PoolView { grace: 7_199, ..pool(3, &key(1), 900) };
    worker.on_pool(POOL, short, &BTreeMap::new());
    assert!(matches!(worker.offer(POOL, 1, NOW), Err(Refused::ShortGrace { .. })));
}

#[test]
fn a_worker_takes_no_payout_that_is_worth_less_than_it_says() {
    let mut worker = worker();
    worker.offer(POOL, 50, NOW).unwrap();
    worker.delivered(POOL, 1, 50, NOW);
    assert!(matches!(worker.on_payout(payout(2, 50)), Err(Refused::Voucher(_))), "by another key");
    let for_another = Payout { worker: POOL, ..payout(1, 50).voucher };
    assert!(matches!(worker.on_payout(key(1).sign(for_another)), Err(Refused::ForeignPayout { .. })));
    worker.on_payout(payout(1, 50)).unwrap();
    assert!(matches!(worker.on_payout(payout(1, 49)), Err(Refused::LowerPayout { had: 50, found: 49 })));
    worker.on_payout(payout(1, 50)).unwrap();
}

#[test]
fn a_worker_cashes_when_the_session_ends_or_enough_or_long_enough() {
    let mut worker = worker();
    worker.offer(POOL, 50, NOW).unwrap();
    worker.delivered(POOL, 1, 60, NOW);
    worker.on_payout(payout(1, 60)).unwrap();
    assert!(worker.cash_outs(NOW).is_empty());
    assert_eq!(worker.cash_outs(NOW + 3_000).len(), 1, "it waited long enough");
    worker.on_payout(payout(1, 100)).unwrap();
    assert_eq!(worker.cash_outs(NOW)[0].due, 100, "it is enough");
    let mut view = pool(2, &key(6), 900);
    let closes_at = (NOW + 7_200) as u32;
    view.pots.insert(1, PotView { key: key(1).public().to_bytes(), closes_at, funded: 500, spent: 0 });
    worker.on_pool(POOL, view.clone(), &BTreeMap::from([(1, 60)]));
    let out = worker.cash_outs(NOW);
    assert_eq!((out[0].due, out[0].by), (40, Some(NOW + 7_200)), "the session ended");
    view.seen.seqno += 1;
    worker.on_pool(POOL, view, &BTreeMap::from([(1, 100)]));
    assert!(worker.cash_outs(NOW).is_empty(), "all is paid");
}
