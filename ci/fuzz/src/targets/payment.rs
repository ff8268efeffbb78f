//! Vouchers and receipts of peers, and the proxy's log, which lies on its host's disk.

use crate::{MEMORY, Target};
use payment::log::{Fold, LogWriter, Record, Recovered, read};
use payment::price::{Price, Tokens};
use payment::receipt::{End, Receipt};
use payment::{Address, Cap, Payout, SecretKey, Session, Signed, Surplus, Use, Voucher};

/// Every signed thing that a peer sends.
pub const VOUCHER: Target =
    Target { name: "payment_voucher", run: run_voucher, seeds: seeds_voucher, memory: MEMORY };
/// The write-ahead log.
pub const LOG: Target = Target { name: "payment_log", run: run_log, seeds: seeds_log, memory: MEMORY };

const NET: i32 = -239;
const PLACE: Address = Address { workchain: 0, hash: [7; 32] };

fn run_voucher(bytes: &[u8]) -> bool {
    if let Ok(receipt) = Signed::<Receipt>::from_bytes(bytes) {
        let _ = receipt.voucher.check();
    }
    one_encoding::<Cap>(bytes)
        | one_encoding::<Use>(bytes)
        | one_encoding::<Session>(bytes)
        | one_encoding::<Payout>(bytes)
        | one_encoding::<Surplus>(bytes)
        | one_encoding::<Receipt>(bytes)
}

/// What is read is written back as it came.
fn one_encoding<V: Voucher>(bytes: &[u8]) -> bool {
    let read = Signed::<V>::from_bytes(bytes);
    if let Ok(signed) = &read {
        assert_eq!(signed.to_bytes(), bytes, "a voucher has two encodings");
    }
    read.is_ok()
}

fn seeds_voucher() -> Vec<Vec<u8>> {
    let key = SecretKey::from_seed(&[1; 32]);
    let session = Session { global_id: NET, pool: PLACE, epoch: 2, key: [3; 32], valid_until: 9 };
    let price =
        Price { base: 1_000_000, prompt: 10_000, cached: 1_000, completion: 40_000, reasoning: 40_000 };
    let receipt = Receipt {
        global_id: NET,
        vault: PLACE,
        request: 1,
        time: 2,
        request_hash: [1; 32],
        response_hash: [2; 32],
        model_root: [3; 32],
        release: [4; 32],
        evidence: [5; 32],
        tokens: Tokens { prompt: 3, ..Tokens::default() },
        price,
        charged: 3,
        total: 30,
        end: End::Complete,
    };
    vec![
        key.sign(cap()).to_bytes(),
        key.sign(Use { global_id: NET, vault: PLACE, total: 5 }).to_bytes(),
        key.sign(session).to_bytes(),
        key.sign(payout()).to_bytes(),
        key.sign(Surplus { global_id: NET, pool: PLACE, epoch: 2, total: 5 }).to_bytes(),
        key.sign(receipt).to_bytes(),
    ]
}

fn cap() -> Cap {
    Cap { global_id: NET, vault: PLACE, valid_until: 9, session_key: [2; 32], cap: 100 }
}

fn payout() -> Payout {
    Payout { global_id: NET, pool: PLACE, epoch: 2, worker: PLACE, total: 20 }
}

fn run_log(bytes: &[u8]) -> bool {
    let log = read(bytes, &PLACE);
    assert_eq!(log.good + log.left, bytes.len(), "some bytes of a log are neither read nor left");
    // A log that begins with what this one comes to says the same.
    let mut fold = Fold::after(Recovered::default(), log.key);
    log.records.iter().for_each(|record| fold.apply(record));
    let mut again = Fold::after(Recovered::default(), log.key);
    fold.snapshot().iter().for_each(|record| again.apply(record));
    assert_eq!(fold.finish(), again.finish(), "a snapshot says something else");
    !log.records.is_empty()
}

fn seeds_log() -> Vec<Vec<u8>> {
    let key = SecretKey::from_seed(&[1; 32]);
    let (mut bytes, mut writer) = LogWriter::begin(&PLACE, &[3; 32]);
    let used = key.sign(Use { global_id: NET, vault: PLACE, total: 25 });
    let records = [
        Record::Opened { vault: PLACE, used: 5, lost: 3 },
        Record::Cap(key.sign(cap())),
        Record::Reserved { id: 1, vault: PLACE, hold: 30 },
        Record::Charged { id: 1, used, payout: Some(key.sign(payout())) },
        Record::Charged { id: 2, used, payout: None },
        Record::Released { id: 3 },
        Record::Owed { cap: key.sign(cap()), used },
        Record::Earned(key.sign(payout())),
    ];
    for record in &records {
        bytes.extend(writer.append(record));
    }
    vec![bytes]
}
