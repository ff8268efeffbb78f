//! Claims about the clerk: what leaves is on disk, what can't be written is not promised, and a next boot counts what was
//! open as spent.

use super::*;
use crate::play::{Boot, MODEL, MOST, NOW, PRICE, Purse, WORKER};
use payment::log::{Record, Recovered, recover};

fn delivery(request: u64, tokens: u32) -> Delivery {
    let facts = Facts {
        request,
        time: NOW,
        request_hash: [9; 32],
        response_hash: [8; 32],
        model_root: MODEL,
        release: [0; 32],
        evidence: [0; 32],
    };
    let tokens = Tokens { prompt: tokens, completion: tokens, ..Tokens::default() };
    Delivery { worker: WORKER, tokens, end: End::Complete, facts }
}

fn most() -> u64 {
    PRICE.charge(&Tokens { prompt: MOST.prompt, completion: MOST.completion, ..Tokens::default() }).unwrap()
}

async fn hold(boot: &Boot, purse: &mut Purse) -> (u64, Hold) {
    let reservation = purse.reservation();
    let request = reservation.request;
    (request, boot.money.hold(reservation).await.map_err(|refusal| format!("{refusal:?}")).unwrap())
}

async fn finish(boot: &Boot, request: u64, hold: Hold, tokens: u32) -> Result<Settled, NotBooked> {
    boot.money.books().finish(hold, delivery(request, tokens), Arc::default()).await
}

async fn held(boot: &Boot, purse: &Purse) -> (u64, u64, u64) {
    let vault = purse.vault;
    let standing = boot.money.books().look(move |desk, _| desk.standing(&vault)).await.unwrap().unwrap();
    (standing.used, standing.lost, standing.held)
}

#[tokio::test]
async fn a_request_is_held_charged_and_its_vouchers_check_out() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 1 << 40);
    let (request, hold) = hold(&boot, &mut purse).await;
    assert_eq!(held(&boot, &purse).await, (0, 0, most()));
    let settled = finish(&boot, request, hold, 10).await.unwrap();
    let charged = purse.settle(request, &settled);
    assert_eq!(charged, PRICE.charge(&delivery(0, 10).tokens).unwrap());
    assert_eq!(held(&boot, &purse).await, (charged, 0, 0));
    assert_eq!(settled.payout.voucher.total, charged - charged / 10, "a tenth is the commission");
    let kinds: Vec<u8> = boot.tape.log().records.iter().map(kind).collect();
    assert_eq!(kinds, [6, 1, 2, 3], "opened, cap, reserved, charged");
}

fn kind(record: &Record) -> u8 {
    match record {
        Record::Cap(_) => 1,
        Record::Reserved { .. } => 2,
        Record::Charged { .. } => 3,
        Record::Released { .. } => 5,
        Record::Opened { .. } => 6,
        Record::Owed { .. } => 7,
        Record::Earned(_) => 8,
    }
}

#[tokio::test]
async fn a_hold_that_is_dropped_is_given_back() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 1 << 40);
    let (_, hold) = hold(&boot, &mut purse).await;
    drop(hold);
    assert_eq!(held(&boot, &purse).await, (0, 0, 0));
    let last = boot.tape.log().records.last().map(kind);
    assert_eq!(last, Some(5));
}

#[tokio::test]
async fn whoever_gives_up_waiting_for_a_hold_leaves_none() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 1 << 40);
    let (_, kept) = hold(&boot, &mut purse).await;
    let reservation = purse.reservation();
    let books = boot.money.books().clone();
    let mut waiting = Box::pin(books.reserve(reservation));
    // The command is on its way with the first poll; nobody takes the answer.
    std::future::poll_fn(|cx| {
        let _ = waiting.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
    drop(waiting);
    loop {
        if held(&boot, &purse).await.2 == most() {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(kept);
}

#[tokio::test]
async fn a_full_disk_refuses_before_anything_is_promised_and_vouchers_wait_for_room() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 1 << 40);
    let (request, first) = hold(&boot, &mut purse).await;
    let before = boot.tape.log().records.len();
    boot.tape.room(10);
    let finishing = tokio::spawn(boot.money.books().finish(first, delivery(request, 10), Arc::default()));
    let next = purse.reservation();
    assert_eq!(boot.money.books().reserve(next).await.unwrap_err(), NotBooked::NoLogSpace);
    while boot.money.books().standing().writes {
        tokio::task::yield_now().await;
    }
    let (vault, log) = (purse.vault, boot.tape.log());
    assert_eq!(log.records.len(), before, "nothing whole was written");
    assert!(log.left > 0, "a torn record is there, and read as none");
    let look = |ask: fn(&mut Desk) -> bool| boot.money.books().look(move |desk, _| ask(desk));
    assert_eq!(look(|desk| desk.claims().is_empty()).await, Some(true), "no voucher left");
    assert_eq!(look(|desk| desk.payout(&WORKER).is_none()).await, Some(true));
    let kept = move |desk: &mut Desk, _| desk.receipt(&vault, request);
    assert_eq!(boot.money.books().look(kept).await, Some(Some(Kept::Open)));

    boot.tape.room(1 << 20);
    // It is written again by itself, and what was finished is charged then.
    let settled = finishing.await.unwrap().unwrap();
    purse.settle(request, &settled);
    assert!(matches!(boot.money.books().look(kept).await, Some(Some(Kept::Charged { .. }))));
    assert_eq!(boot.tape.log().left, 0);
    let again = crate::books::Reservation { cap: next.cap, ..next };
    assert!(boot.money.books().reserve(again).await.is_ok(), "its number was never used");
}

#[tokio::test]
async fn after_a_kill_what_was_held_counts_as_lost_and_what_was_charged_as_used() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 1 << 40);
    let (request, first) = hold(&boot, &mut purse).await;
    let settled = finish(&boot, request, first, 10).await.unwrap();
    let charged = purse.settle(request, &settled);
    let (open, second) = hold(&boot, &mut purse).await;
    let log = boot.tape.log();
    let recovered = recover(Recovered::default(), &log);
    std::mem::forget(second);
    purse.client.abandon(open);

    let next = Boot::after(recovered);
    next.chain.vaults.lock().unwrap().insert(purse.vault, purse.view);
    purse.meet(next.key, charged + most());
    let (request, third) = hold(&next, &mut purse).await;
    assert_eq!(held(&next, &purse).await, (charged, most(), most()));
    let settled = finish(&next, request, third, 5).await.unwrap();
    assert!(settled.used.voucher.total > charged);
    let claims = next.money.books().look(|desk, _| desk.claims()).await.unwrap();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].used, settled.used);
    let payouts = next.money.books().look(|desk, _| desk.payouts(&WORKER)).await.unwrap();
    assert_eq!(payouts.len(), 2, "of both sessions");
}

#[tokio::test]
async fn vouchers_of_a_boot_before_can_be_claimed_while_this_one_has_none() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 1 << 40);
    let (request, first) = hold(&boot, &mut purse).await;
    let settled = finish(&boot, request, first, 10).await.unwrap();
    let next = Boot::after(recover(Recovered::default(), &boot.tape.log()));
    let claims = next.money.books().look(|desk, _| desk.claims()).await.unwrap();
    assert_eq!((claims[0].used, claims[0].due), (settled.used, settled.charged));
}

#[tokio::test]
async fn an_order_is_good_for_one_request_of_its_own_vault() {
    let boot = Boot::first();
    let (mut purse, mut other) = (boot.client(1, 1 << 40), boot.client(2, 1 << 40));
    let books = boot.money.books();
    let good = purse.reservation();
    drop(boot.money.hold(good).await.unwrap_or_else(|refusal| panic!("{refusal:?}")));
    let refused = async |r: Reservation| books.reserve(r).await.unwrap_err();
    assert_eq!(refused(good).await, NotBooked::Twice { request: good.request });
    let fresh = purse.reservation();
    let theirs = other.reservation();
    assert_eq!(
        refused(Reservation { order: theirs.order, ..fresh }).await,
        NotBooked::OtherOrder { field: "vault" }
    );
    let body = Reservation { request_hash: [1; 32], ..fresh };
    assert_eq!(refused(body).await, NotBooked::OtherOrder { field: "body" });
    let more = Reservation { most: Most { prompt: 100, completion: 101 }, ..fresh };
    assert_eq!(refused(more).await, NotBooked::OtherOrder { field: "limit" });
    let number = Reservation { request: 99, ..fresh };
    assert_eq!(refused(number).await, NotBooked::OtherOrder { field: "number" });
    let mut forged = fresh;
    forged.order.signature[3] ^= 1;
    let error = refused(forged).await;
    assert!(matches!(error, NotBooked::Signature(_)) && error.is_peer_fault());
    // A cap is public: somebody who read it has no order by the vault's key.
    let thief = payment::SecretKey::from_seed(&[66; 32]).sign(fresh.order.voucher);
    assert!(matches!(refused(Reservation { order: thief, ..fresh }).await, NotBooked::Signature(_)));
    assert!(books.reserve(fresh).await.is_ok(), "and none of these spoiled it");
}

#[tokio::test]
async fn caps_that_overtake_each_other_do_no_harm_and_a_missing_one_is_named() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 1 << 40);
    let (low, high) = (purse.reservation(), purse.reservation());
    let second = boot.money.hold(high).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let first = boot.money.books().reserve(low).await.unwrap();
    assert_eq!(held(&boot, &purse).await.2, 2 * most());
    let third = purse.reservation();
    let without = boot.money.books().reserve(Reservation { cap: None, ..third }).await.unwrap_err();
    let need = 3 * most();
    assert_eq!(
        without,
        NotBooked::Refused(Refused::CapTooLow { vault: purse.vault, need, found: 2 * most() })
    );
    drop((first, second));
}

#[tokio::test]
async fn a_client_that_never_pays_is_served_no_more_than_its_deposit_covers() {
    let boot = Boot::first();
    let mut purse = boot.client(1, 3 * most());
    let mut holds = Vec::new();
    for _ in 0..3 {
        holds.push(hold(&boot, &mut purse).await);
    }
    // A client that signs more than it has: its own checks are not the proxy's.
    let mut bold = Purse::new(1, 100 * most());
    bold.meet(boot.key, 0);
    for _ in 0..3 {
        bold.reservation();
    }
    let refused = boot.money.hold(bold.reservation()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("deposit: Some"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_syncs_and_are_all_told_right() {
    let boot = Boot::first();
    let mut purses: Vec<Purse> = (1..9).map(|n| boot.client(n, 1 << 40)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    let mut expected = 0;
    for purse in &mut purses {
        for n in 0..25 {
            let mut reservation = purse.reservation();
            let bad = n % 5 == 4;
            if bad {
                reservation.order.signature[0] ^= 1;
            } else {
                expected += 1;
            }
            let money = boot.money.clone();
            tasks.spawn(async move {
                let held = money.hold(reservation).await;
                assert_eq!(held.is_err(), bad);
                let Ok(hold) = held else { return };
                let what = delivery(reservation.request, 1);
                money.books().finish(hold, what, Arc::default()).await.unwrap();
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let log = boot.tape.log();
    assert_eq!(log.left, 0);
    assert_eq!(log.records.iter().filter(|record| kind(record) == 3).count(), expected);
    let recovered = recover(Recovered::default(), &log);
    let each = PRICE.charge(&delivery(0, 1).tokens).unwrap();
    assert!(recovered.vaults.values().all(|vault| (vault.used, vault.lost) == (20 * each, 0)));
}

#[test]
fn a_boot_reads_the_log_before_and_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let pool = crate::play::POOL;
    let vault = Address { workchain: 0, hash: [5; 32] };
    for boot in 1..=3u64 {
        let (before, mut journal) = open(folder.path(), &pool, &[boot as u8; 32]).unwrap();
        let lost = before.vaults.get(&vault).map_or(0, |known| known.lost);
        assert_eq!(lost, (boot - 1) * 100);
        let opened = Record::Opened { vault, used: 0, lost };
        journal.add(&[opened, Record::Reserved { id: 1, vault, hold: 100 }]);
        journal.write().unwrap();
    }
    // A torn end, and a file of something else.
    let path = folder.path().join("boot-00000003.wal");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..payment::log::read(&whole, &pool).good - 1]).unwrap();
    std::fs::write(folder.path().join("boot-x.wal"), "?").unwrap();
    let (before, _) = open(folder.path(), &pool, &[4; 32]).unwrap();
    assert_eq!(before.vaults[&vault].lost, 200, "the torn record was never answered");
    assert_eq!(names(folder.path()), ["boot-00000004.wal", "boot-x.wal"]);
    // Of another pool: not read, and not removed.
    let other = open(folder.path(), &Address { workchain: 0, hash: [77; 32] }, &[5; 32]).unwrap().0;
    assert_eq!(other, Recovered::default());
    assert_eq!(names(folder.path()), ["boot-00000004.wal", "boot-00000005.wal", "boot-x.wal"]);
}

/// A log that outgrows its room again and again; its file is always longer than it, and none of that is read.
#[test]
fn room_behind_a_log_is_there_before_it_is_needed_and_says_nothing() {
    let (folder, pool) = (tempfile::tempdir().unwrap(), crate::play::POOL);
    let path = folder.path().join("boot-00000001.wal");
    let vault = |n: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        Address { workchain: 0, hash }
    };
    let (_, mut journal) = open(folder.path(), &pool, &[1; 32]).unwrap();
    let mut count = 0;
    for _ in 0..5 {
        let records: Vec<Record> =
            (count..count + 8_000).map(|n| Record::Opened { vault: vault(n), used: n, lost: 0 }).collect();
        count += 8_000;
        journal.add(&records);
        journal.write().unwrap();
        journal.prepare();
        let bytes = std::fs::read(&path).unwrap();
        let log = payment::log::read(&bytes, &pool);
        assert_eq!(log.records.len() as u64, count);
        assert!(log.left >= 512 * 1024, "{} bytes of room", log.left);
        assert!(bytes[log.good..].iter().all(|byte| *byte == 0));
    }
    drop(journal);
    assert_eq!(open(folder.path(), &pool, &[2; 32]).unwrap().0.vaults.len() as u64, count);
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A crash at each step of a new log's beginning: the new file cut at any byte, whole beside the old one, and alone.
#[test]
fn a_crash_while_a_log_is_begun_anew_loses_nothing() {
    let pool = crate::play::POOL;
    let vault = |n: u8| Address { workchain: 0, hash: [n; 32] };
    let first = tempfile::tempdir().unwrap();
    let (_, journal) = open(first.path(), &pool, &[1; 32]).unwrap();
    let mut journal = journal.renewed_every(1);
    for n in 0..4u8 {
        let id = u64::from(n);
        journal.add(&[
            Record::Opened { vault: vault(n), used: 7 * id, lost: id },
            Record::Reserved { id, vault: vault(n), hold: 100 },
        ]);
        journal.write().unwrap();
    }
    journal.add(&[Record::Released { id: 2 }]);
    journal.write().unwrap();
    let old = std::fs::read(first.path().join("boot-00000001.wal")).unwrap();
    journal.compact(0, |_| true).unwrap();
    assert_eq!(names(first.path()), ["boot-00000002.wal"]);
    let new = std::fs::read(first.path().join("boot-00000002.wal")).unwrap();
    drop(journal);
    let expected = open(first.path(), &pool, &[2; 32]).unwrap().0;
    assert_eq!((expected.vaults[&vault(1)].lost, expected.vaults[&vault(2)].lost), (101, 2));

    let left = |files: &[(&str, &[u8])]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let found = open(folder.path(), &pool, &[2; 32]).unwrap().0;
        assert_eq!(names(folder.path()).iter().filter(|name| name.ends_with(".wal")).count(), 1);
        found
    };
    let (was, is) = ("boot-00000001.wal", "boot-00000002.wal");
    let said = payment::log::read(&new, &pool).good;
    for cut in (0..said + 64).step_by(7).chain([said, new.len()]) {
        assert_eq!(left(&[(was, &old), ("boot-00000002.new", &new[..cut])]), expected, "cut at {cut}");
    }
    assert_eq!(left(&[(was, &old), (is, &new), ("boot-00000002.new", &new)]), expected);
    assert_eq!(left(&[(was, &old), (is, &new)]), expected);
    assert_eq!(left(&[(is, &new)]), expected);
}

#[tokio::test]
async fn a_log_that_is_begun_anew_stays_short_and_forgets_nothing() {
    const STEP: u64 = 2_000;
    let boot = Boot::renewing(Recovered::default(), Some(STEP));
    let mut purses = [boot.client(1, 1 << 40), boot.client(2, 1 << 40)];
    let (mut charged, mut open, mut longest) = ([0; 2], Vec::new(), 0);
    for n in 0..60 {
        let (request, held) = hold(&boot, &mut purses[n % 2]).await;
        if n % 20 == 19 {
            open.push(held);
            purses[n % 2].client.abandon(request);
            continue;
        }
        let settled = finish(&boot, request, held, 10).await.unwrap();
        charged[n % 2] += purses[n % 2].settle(request, &settled);
        longest = longest.max(boot.tape.bytes().len() as u64);
    }
    // What two vaults, a worker and three open requests come to, four times, and a batch.
    assert!(longest < 4 * 2_000 + STEP, "{longest}");
    let recovered = recover(Recovered::default(), &boot.tape.log());
    for (n, purse) in purses.iter().enumerate() {
        let vault = &recovered.vaults[&purse.vault];
        assert_eq!(vault.used, charged[n]);
        assert_eq!(vault.owed.map(|(_, used)| used.voucher.total), Some(charged[n]));
    }
    assert_eq!(recovered.vaults.values().map(|vault| vault.lost).sum::<u64>(), 3 * most());
    assert_eq!(recovered.payouts.len(), 1);
    // A next boot claims with these.
    let next = Boot::after(recovered);
    let claims = next.money.books().look(|desk, _| desk.claims()).await.unwrap();
    assert_eq!(claims.iter().map(|claim| claim.due).sum::<u64>(), charged[0] + charged[1]);
    std::mem::forget(open);
}

#[tokio::test]
async fn a_log_that_can_not_be_begun_anew_goes_on() {
    let boot = Boot::renewing(Recovered::default(), Some(1));
    let mut purse = boot.client(1, 1 << 40);
    let (request, first) = hold(&boot, &mut purse).await;
    // Room for what comes, and none for a second log beside it.
    boot.tape.room(700);
    finish(&boot, request, first, 10).await.unwrap();
    let before = boot.tape.bytes().len();
    let (request, second) = hold(&boot, &mut purse).await;
    assert!(boot.tape.bytes().len() > before, "it goes on");
    boot.tape.room(1 << 20);
    finish(&boot, request, second, 10).await.unwrap();
    // It is begun anew when it has grown once more.
    for _ in 0..20 {
        let (request, next) = hold(&boot, &mut purse).await;
        finish(&boot, request, next, 10).await.unwrap();
    }
    let kinds: Vec<u8> = boot.tape.log().records.iter().map(kind).collect();
    assert_eq!(kinds[..2], [6, 7], "{kinds:?}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = open(file.path(), &crate::play::POOL, &[0; 32]).unwrap_err().to_string();
    assert!(error.contains("--state") && error.contains(file.path().to_str().unwrap()), "{error}");
}

/// How long the log is, and for each vault what is spoken for and what a voucher that left says.
struct Said {
    log: usize,
    spoken_for: [u64; 2],
    vouched: [u64; 2],
}

#[tokio::test]
async fn a_kill_at_any_byte_of_the_log_forgets_nothing_that_was_said() {
    let boot = Boot::first();
    let mut purses = [boot.client(1, 1 << 40), boot.client(2, 1 << 40)];
    let (mut said, mut open, mut vouched) = (Vec::new(), Vec::new(), [0; 2]);
    for n in 0..8 {
        let (request, hold) = hold(&boot, &mut purses[n % 2]).await;
        said.push(say(&boot, &purses, vouched).await);
        match n {
            0 | 3 | 6 => {
                let settled = finish(&boot, request, hold, 10).await.unwrap();
                purses[n % 2].settle(request, &settled);
                vouched[n % 2] = settled.used.voucher.total;
            }
            1 => drop(hold),
            _ => open.push(hold),
        }
        said.push(say(&boot, &purses, vouched).await);
    }
    let bytes = boot.tape.bytes();
    for cut in said[0].log..=bytes.len() {
        let known = recover(Recovered::default(), &payment::log::read(&bytes[..cut], &crate::play::POOL));
        let next = said.iter().position(|said| said.log > cut).unwrap_or(said.len());
        let (now, then) = (&said[next - 1], &said[next.min(said.len() - 1)]);
        for (n, purse) in purses.iter().enumerate() {
            let vault = known.vaults.get(&purse.vault).cloned().unwrap_or_default();
            assert!(vault.used >= now.vouched[n], "a voucher is forgotten at {cut}");
            let least = now.spoken_for[n].min(then.spoken_for[n]);
            assert!(vault.used + vault.lost >= least, "a hold is forgotten at {cut}");
        }
    }
    std::mem::forget(open);
}

async fn say(boot: &Boot, purses: &[Purse; 2], vouched: [u64; 2]) -> Said {
    let mut spoken_for = [0; 2];
    for (sum, purse) in spoken_for.iter_mut().zip(purses) {
        let vault = purse.vault;
        let standing = boot.money.books().look(move |desk, _| desk.standing(&vault)).await.unwrap();
        *sum = standing.map_or(0, |standing| standing.used + standing.held);
    }
    Said { log: boot.tape.log().good, spoken_for, vouched }
}

#[test]
fn a_device_without_space_keeps_what_is_lined_up() {
    let mut journal = Journal::begin(Files::full(), &crate::play::POOL, &[0; 32]);
    for _ in 0..2 {
        assert_eq!(journal.write().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        assert!(!journal.is_written());
    }
}
