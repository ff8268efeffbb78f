//! The proxy's write-ahead log: what must be on disk before anything is said because of it.
//!
//! ```text
//! "CHRYWAL1" pool(33) key(32)  then records:  length(u16)  kind(u8) fields  check(8)
//! ```
//! `check` is the head of SHA-256 over the check before it and the record's kind and fields, so a record that was torn,
//! changed, moved or repeated ends the log where it stands. A log that was cut off between two records can't be told
//! from one that was shorter: whoever owns the disk can forget what its own clients owe it, and nothing else.
//!
//! A log belongs to one boot. The next boot reads it once ([`recover`]) and begins a log of its own with what it has learnt
//! ([`Fold::snapshot`]), so that logs before need not be kept; a log that has grown long is begun anew the same way.

mod fold;

pub use fold::{Fold, Recovered, RecoveredVault, recover};

use crate::bytes::{Reader, Writer};
use crate::sign::Signed;
use crate::voucher::{Address, Cap, Payout, Use, Voucher};
use sha2::{Digest, Sha256};

const MAGIC: [u8; 8] = *b"CHRYWAL1";
const HEADER: usize = 8 + 33 + 32;
const CHECK: usize = 8;

/// The longest record that is read, in bytes of kind and fields.
const LONGEST: usize = 512;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The client's cap, as it was taken.
    Cap(Signed<Cap>),
    /// What a vault begins with in this boot; logs before have no more to say of it.
    Opened {
        /// The vault.
        vault: Address,
        /// The client's total.
        used: u64,
        /// Holds of boots before that were open when they ended.
        lost: u64,
    },
    /// Before a request is dispatched: `hold` nanoTON of the vault are spoken for.
    Reserved {
        /// The proxy's number of the request.
        id: u64,
        /// Who pays.
        vault: Address,
        /// The most that it can cost.
        hold: u64,
    },
    /// Before its vouchers are handed out: what a finished request cost.
    Charged {
        /// The proxy's number of the request.
        id: u64,
        /// The client's new total.
        used: Signed<Use>,
        /// The worker's new total; none if the pot could not back it any more.
        payout: Option<Signed<Payout>>,
    },
    /// A request that is not charged.
    Released {
        /// The proxy's number of the request.
        id: u64,
    },
    /// What a log before had of a vault, to be claimed: the cap is for the very key that signed the use.
    Owed {
        /// The client's.
        cap: Signed<Cap>,
        /// Of the session that the cap is for.
        used: Signed<Use>,
    },
    /// What a log before had of a worker: its newest voucher of one session.
    Earned(Signed<Payout>),
}

impl Record {
    /// Kind and fields.
    fn encode(&self) -> Vec<u8> {
        let begin = |kind: u8| Writer::default().u8(kind);
        match self {
            Self::Cap(cap) => begin(1).raw(&cap.to_bytes()).done(),
            Self::Reserved { id, vault, hold } => begin(2).u64(*id).address(vault).u64(*hold).done(),
            Self::Charged { id, used, payout: Some(payout) } => {
                begin(3).u64(*id).raw(&used.to_bytes()).raw(&payout.to_bytes()).done()
            }
            Self::Charged { id, used, payout: None } => begin(4).u64(*id).raw(&used.to_bytes()).done(),
            Self::Released { id } => begin(5).u64(*id).done(),
            Self::Opened { vault, used, lost } => begin(6).address(vault).u64(*used).u64(*lost).done(),
            Self::Owed { cap, used } => begin(7).raw(&cap.to_bytes()).raw(&used.to_bytes()).done(),
            Self::Earned(payout) => begin(8).raw(&payout.to_bytes()).done(),
        }
    }

    /// The record, or none where kind or length are none that are written.
    fn decode(bytes: &[u8]) -> Option<Self> {
        const USE: usize = Use::LENGTH + 64;
        let (kind, fields) = bytes.split_first()?;
        match kind {
            1 => return Some(Self::Cap(Signed::from_bytes(fields).ok()?)),
            6 if fields.len() == 33 + 16 => {
                let mut r = Reader::new(fields);
                return Some(Self::Opened { vault: r.address(), used: r.u64(), lost: r.u64() });
            }
            7 => {
                let (cap, used) = fields.split_at_checked(Cap::LENGTH + 64)?;
                let (cap, used) = (Signed::from_bytes(cap).ok()?, Signed::from_bytes(used).ok()?);
                return Some(Self::Owed { cap, used });
            }
            8 => return Some(Self::Earned(Signed::from_bytes(fields).ok()?)),
            _ => {}
        }
        let (id, rest) = fields.split_first_chunk::<8>()?;
        let id = u64::from_be_bytes(*id);
        match (kind, rest.len()) {
            (2, 41) => {
                let mut r = Reader::new(rest);
                Some(Self::Reserved { id, vault: r.address(), hold: r.u64() })
            }
            (3, length) if length > USE => {
                let (used, payout) = rest.split_at(USE);
                let payout = Some(Signed::from_bytes(payout).ok()?);
                Some(Self::Charged { id, used: Signed::from_bytes(used).ok()?, payout })
            }
            (4, USE) => Some(Self::Charged { id, used: Signed::from_bytes(rest).ok()?, payout: None }),
            (5, 0) => Some(Self::Released { id }),
            _ => None,
        }
    }
}

/// Turns records into the bytes to append.
#[derive(Debug)]
pub struct LogWriter {
    check: [u8; CHECK],
}

impl LogWriter {
    /// A new log's first bytes, and its writer.
    pub fn begin(pool: &Address, key: &[u8; 32]) -> (Vec<u8>, Self) {
        let header = Writer::default().raw(&MAGIC).address(pool).raw(key).done();
        let check = checked(&[0; CHECK], &header);
        (header, Self { check })
    }

    /// The bytes of one more record.
    pub fn append(&mut self, record: &Record) -> Vec<u8> {
        let body = record.encode();
        self.check = checked(&self.check, &body);
        Writer::default().u16(body.len() as u16).raw(&body).raw(&self.check).done()
    }
}

/// Head of SHA-256 over the check before and a record.
fn checked(before: &[u8; CHECK], body: &[u8]) -> [u8; CHECK] {
    let digest = Sha256::new().chain_update(before).chain_update(body).finalize();
    let mut head = [0; CHECK];
    head.copy_from_slice(&digest[..CHECK]);
    head
}

/// A log as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The public key of the session whose log it is.
    pub key: [u8; 32],
    /// What stands in it, in order.
    pub records: Vec<Record>,
    /// Bytes that were read as header and whole records.
    pub good: usize,
    /// Bytes after them: the torn end of a crash, or somebody's change.
    pub left: usize,
}

/// Reads a log of `pool`. Never fails: a log that can't be read is an empty one, since to lose it harms only its owner.
/// Allocates about as much as the bytes take.
pub fn read(bytes: &[u8], pool: &Address) -> Log {
    let header = bytes.get(..HEADER).filter(|h| {
        let mut r = Reader::new(h);
        r.raw::<8>() == MAGIC && r.address() == *pool
    });
    let Some(header) = header else { return Log { left: bytes.len(), ..Log::default() } };
    let mut check = checked(&[0; CHECK], header);
    let key = Reader::new(&header[HEADER - 32..]).raw();
    let mut log = Log { key, records: Vec::new(), good: HEADER, left: 0 };
    while let Some((record, length)) = next(&bytes[log.good..], &mut check) {
        log.records.push(record);
        log.good += length;
    }
    log.left = bytes.len() - log.good;
    log
}

/// The record at the head of `bytes`, and its length with frame.
fn next(bytes: &[u8], check: &mut [u8; CHECK]) -> Option<(Record, usize)> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let body = rest.get(..length).filter(|_| length <= LONGEST)?;
    let found = rest.get(length..length + CHECK)?;
    let expected = checked(check, body);
    if found != expected {
        return None;
    }
    *check = expected;
    Some((Record::decode(body)?, 2 + length + CHECK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SecretKey;
    use proptest::prelude::*;

    const POOL: Address = Address { workchain: 0, hash: [8; 32] };
    const VAULT: Address = Address { workchain: 0, hash: [9; 32] };

    fn records() -> Vec<Record> {
        let key = SecretKey::from_seed(&[1; 32]);
        let used = |total| key.sign(Use { global_id: -239, vault: VAULT, total });
        let payout = |total| key.sign(Payout { global_id: -239, pool: POOL, epoch: 4, worker: VAULT, total });
        let cap = Cap { global_id: -239, vault: VAULT, valid_until: 9, session_key: [3; 32], cap: 100 };
        vec![
            Record::Cap(key.sign(cap)),
            Record::Opened { vault: VAULT, used: 5, lost: 3 },
            Record::Reserved { id: 1, vault: VAULT, hold: 30 },
            Record::Reserved { id: 2, vault: VAULT, hold: 20 },
            Record::Charged { id: 1, used: used(25), payout: Some(payout(20)) },
            Record::Reserved { id: 3, vault: VAULT, hold: 10 },
            Record::Released { id: 2 },
            Record::Reserved { id: 4, vault: VAULT, hold: 7 },
            Record::Charged { id: 3, used: used(31), payout: None },
            Record::Owed { cap: key.sign(cap), used: used(31) },
            Record::Earned(payout(20)),
        ]
    }

    /// The log's bytes, and the length after each record.
    fn written() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut writer) = LogWriter::begin(&POOL, &[3; 32]);
        let mut ends = vec![bytes.len()];
        for record in records() {
            bytes.extend(writer.append(&record));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn a_log_cut_at_any_byte_gives_the_whole_records_before_the_cut() {
        let (bytes, ends) = written();
        for cut in 0..=bytes.len() {
            let log = read(&bytes[..cut], &POOL);
            let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
            assert_eq!(log.records, records()[..whole], "cut at {cut}");
            assert_eq!(log.good + log.left, cut);
        }
    }

    #[test]
    fn what_was_open_counts_as_spent_and_the_best_vouchers_are_kept() {
        let (bytes, _) = written();
        let recovered = recover(Recovered::default(), &read(&bytes, &POOL));
        let vault = &recovered.vaults[&VAULT];
        assert_eq!((vault.used, vault.lost), (31, 10));
        assert_eq!(vault.owed.map(|(cap, used)| (cap.voucher.cap, used.voucher.total)), Some((100, 31)));
        assert_eq!(recovered.payouts[&(4, VAULT)].voucher.total, 20);
    }

    #[test]
    fn records_that_were_moved_repeated_or_taken_out_end_the_log() {
        let (bytes, ends) = written();
        let part = |n: usize| &bytes[ends[n]..ends[n + 1]];
        let head = &bytes[..ends[0]];
        let moved = [head, part(1), part(0)].concat();
        let repeated = [head, part(0), part(1), part(1)].concat();
        let without = [head, part(0), part(2)].concat();
        assert_eq!(read(&moved, &POOL).records.len(), 0);
        assert_eq!(read(&repeated, &POOL).records.len(), 2);
        assert_eq!(read(&without, &POOL).records.len(), 1);
    }

    #[test]
    fn another_pools_log_is_no_log() {
        let (bytes, _) = written();
        assert_eq!(read(&bytes, &VAULT), Log { left: bytes.len(), ..Log::default() });
    }

    proptest! {
        #[test]
        fn a_changed_byte_ends_the_log_there(at in 0usize..2000, bits in 1u8..) {
            let (mut bytes, ends) = written();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            let whole = ends.iter().filter(|end| **end <= at).count().saturating_sub(1);
            prop_assert_eq!(read(&bytes, &POOL).records, &records()[..whole]);
        }

        #[test]
        fn hostile_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
            let (mut bytes, _) = LogWriter::begin(&POOL, &[3; 32]);
            bytes.extend(&tail);
            let log = read(&bytes, &POOL);
            recover(Recovered::default(), &log);
            let _ = Record::decode(&tail);
            prop_assert_eq!(log.good + log.left, bytes.len());
        }
    }
}
