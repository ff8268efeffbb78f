//! Receipts: what is checked of one, and the log that keeps them.
//!
//! ```text
//! check:  signature by the attested session key -> price x tokens = charge -> request, response, model, tokens as asked
//! log:    one JSON object a line, appended at once and synced soon after; no word of any request or answer
//! ```
//! What a receipt does not show is said by [`NOT_SHOWN`], which `receipt verify` prints. The contracts never read receipts.

use payment::price::Tokens;
use payment::receipt::{End, Receipt};
use payment::{PublicKey, Signed, Use, VoucherError};
use protocol::market::{Account, Blob, Hex32, Most, Usage};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// What nobody can tell from a receipt alone.
pub const NOT_SHOWN: [&str; 4] = [
    "that the session key was attested: the gateway saw that on its connection; a receipt carries no evidence",
    "that the count of tokens is right: only that it is within what was allowed, and that the charge follows from it",
    "that the answer is good: only which bytes were answered to which bytes, by which weights",
    "when it was: the time is by the proxy's clock, which its host sets",
];

/// Why a receipt isn't the one that was due.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Bytes, signature, or a charge that the tokens don't explain.
    #[error(transparent)]
    Voucher(#[from] VoucherError),
    /// A field is that of something else.
    #[error("the receipt's {field} is {found}, {expected} expected")]
    Field {
        /// Which one.
        field: &'static str,
        /// What it says.
        found: String,
        /// What was due.
        expected: String,
    },
}

/// What a receipt is held against, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Due {
    /// SHA-256 of the request's body.
    pub request_hash: Option<[u8; 32]>,
    /// SHA-256 of the answer's body.
    pub response_hash: Option<[u8; 32]>,
    /// The weights that were asked for.
    pub model_root: Option<[u8; 32]>,
    /// The release that the worker should be of.
    pub release: Option<[u8; 32]>,
    /// What was allowed.
    pub most: Option<Most>,
    /// How the answer ended.
    pub end: Option<End>,
}

impl Due {
    /// Checks signature and fields.
    ///
    /// # Errors
    /// The first that doesn't hold.
    pub fn check(&self, signed: &Signed<Receipt>, key: &PublicKey) -> Result<Receipt, Unfit> {
        let receipt = *signed.verify(key)?.voucher();
        receipt.check()?;
        let hashes = [
            ("request hash", receipt.request_hash, self.request_hash),
            ("response hash", receipt.response_hash, self.response_hash),
            ("model root", receipt.model_root, self.model_root),
            ("release", receipt.release, self.release),
        ];
        for (field, found, expected) in hashes {
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(unfit(field, hex::encode(found), hex::encode(expected)));
            }
        }
        let Tokens { prompt, cached, completion, reasoning } = receipt.tokens;
        if let Some(most) = self.most
            && !(Usage { prompt, cached, completion, reasoning }).is_within(&most)
        {
            let found = format!("{prompt}+{cached},{completion}+{reasoning}");
            return Err(unfit("count of tokens", found, format!("at most {most}")));
        }
        if let Some(end) = self.end.filter(|end| *end != receipt.end) {
            return Err(unfit("end", format!("{:?}", receipt.end), format!("{end:?}")));
        }
        Ok(receipt)
    }
}

fn unfit(field: &'static str, found: String, expected: String) -> Unfit {
    Unfit::Field { field, found, expected }
}

/// What came of a request that was sent under a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Checked and paid.
    Settled,
    /// What came is not what was due; the proxy was left.
    Refused,
    /// No receipt came; the hold stays allowed in this session.
    Abandoned,
    /// It ended without a charge.
    Free,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Always 1.
    pub schema: u32,
    /// Unix seconds, by this machine's clock.
    pub time: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// The path that was asked.
    pub path: String,
    /// The model's name, as the proxy lists it.
    pub model: String,
    /// Its verity root.
    pub model_root: Hex32,
    /// Whom the vault pays.
    pub pool: Account,
    /// Who paid.
    pub vault: Account,
    /// The request's number.
    pub request: u64,
    /// The key that was attested, and that signs the receipt.
    pub session_key: Hex32,
    /// nanoTON that were held.
    pub hold: u64,
    /// nanoTON that were charged.
    pub charged: u64,
    /// Where it isn't settled: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The signed receipt, also one that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Blob>,
    /// The signed use beside it.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub used: Option<Blob>,
}

/// Reads the receipt of trailers or of a log.
///
/// # Errors
/// [`VoucherError`] for bytes that are none.
pub fn receipt_of(blob: &Blob) -> Result<Signed<Receipt>, VoucherError> {
    Signed::from_bytes(blob.bytes())
}

/// Reads the use of trailers or of a log.
///
/// # Errors
/// [`VoucherError`] for bytes that are none.
pub fn use_of(blob: &Blob) -> Result<Signed<Use>, VoucherError> {
    Signed::from_bytes(blob.bytes())
}

/// Name of the log in a gateway's folder.
pub const LOG: &str = "receipts.jsonl";
/// Longest line that is read, bytes.
const LINE: u64 = 16 * 1024;

/// The log of a gateway, open for appending.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens or makes the log of a folder. A last line that a crash cut off is closed, so that the next one stands alone.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(LOG);
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if !std::fs::read(&path)?.last().is_none_or(|last| *last == b'\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { path, file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one entry. It outlives this process from then on, and the machine from the next [`Log::syncer`] on: nothing
    /// is allowed or paid by what stands in the log.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// Has what was appended written to the disk; runs on a thread that may wait.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn syncer(&self) -> io::Result<impl FnOnce() -> io::Result<()> + Send + 'static> {
        let file = self.file.try_clone()?;
        Ok(move || file.sync_data())
    }
}

/// Entries of a log, oldest first, and how many lines were none: those that a crash cut off.
///
/// # Errors
/// What the operating system says.
pub fn read_log(path: &Path) -> io::Result<(Vec<Entry>, usize)> {
    let mut file = BufReader::new(File::open(path)?);
    let (mut entries, mut torn) = (Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        if io::Read::take(&mut file, LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok((entries, torn));
        }
        match serde_json::from_slice(&line) {
            Ok(entry) => entries.push(entry),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) => torn += 1,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use payment::price::Price;
    use payment::{Address, SecretKey};
    use proptest::prelude::*;

    const PRICE: Price =
        Price { base: 1_000_000, prompt: 10_000, cached: 1_000, completion: 20_000, reasoning: 20_000 };

    fn receipt() -> Receipt {
        Receipt {
            global_id: -3,
            vault: Address { workchain: 0, hash: [1; 32] },
            request: 7,
            time: 1,
            request_hash: [2; 32],
            response_hash: [3; 32],
            model_root: [4; 32],
            release: [5; 32],
            evidence: [6; 32],
            tokens: Tokens { prompt: 10, cached: 0, completion: 5, reasoning: 0 },
            price: PRICE,
            charged: 20,
            total: 100,
            end: End::Complete,
        }
    }

    fn due() -> Due {
        Due {
            request_hash: Some([2; 32]),
            response_hash: Some([3; 32]),
            model_root: Some([4; 32]),
            release: Some([5; 32]),
            most: Some(Most { prompt: 10, completion: 5 }),
            end: Some(End::Complete),
        }
    }

    #[test]
    fn the_receipt_that_was_due_passes_and_each_other_one_is_refused_by_the_field() {
        let key = SecretKey::from_seed(&[1; 32]);
        let check = |receipt: Receipt| due().check(&key.sign(receipt), &key.public());
        assert_eq!(check(receipt()), Ok(receipt()));
        let field = |receipt: Receipt| match check(receipt) {
            Err(Unfit::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(Receipt { request_hash: [0; 32], ..receipt() }), "request hash");
        assert_eq!(field(Receipt { response_hash: [0; 32], ..receipt() }), "response hash");
        assert_eq!(field(Receipt { model_root: [0; 32], ..receipt() }), "model root");
        assert_eq!(field(Receipt { release: [0; 32], ..receipt() }), "release");
        assert_eq!(field(Receipt { end: End::Cancelled, ..receipt() }), "end");
        let more = Tokens { prompt: 11, ..receipt().tokens };
        assert_eq!(field(Receipt { tokens: more, charged: 21, ..receipt() }), "count of tokens");
        assert!(matches!(check(Receipt { charged: 21, ..receipt() }), Err(Unfit::Voucher(_))));
        let other = SecretKey::from_seed(&[2; 32]).sign(receipt());
        assert!(matches!(
            due().check(&other, &key.public()),
            Err(Unfit::Voucher(VoucherError::Signature { .. }))
        ));
    }

    pub(crate) fn entry() -> Entry {
        let key = SecretKey::from_seed(&[1; 32]);
        Entry {
            schema: 1,
            time: 5,
            outcome: Outcome::Settled,
            path: "/v1/embeddings".into(),
            model: "m".into(),
            model_root: Hex32([4; 32]),
            pool: Account { workchain: 0, hash: [9; 32] },
            vault: Account { workchain: 0, hash: [1; 32] },
            request: 7,
            session_key: Hex32(key.public().to_bytes()),
            hold: 50,
            charged: 20,
            reason: None,
            receipt: Some(Blob::new(key.sign(receipt()).to_bytes())),
            used: None,
        }
    }

    #[test]
    fn a_log_that_was_cut_anywhere_loses_the_last_line_alone_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path()).unwrap();
        for _ in 0..2 {
            log.append(&entry()).unwrap();
        }
        let whole = std::fs::read(log.path()).unwrap();
        for cut in whole.len() / 2..whole.len() {
            std::fs::write(dir.path().join(LOG), &whole[..cut]).unwrap();
            Log::open(dir.path()).unwrap().append(&entry()).unwrap();
            let (entries, torn) = read_log(&dir.path().join(LOG)).unwrap();
            let whole_line = cut == whole.len() / 2 || cut == whole.len() - 1;
            let expected = if cut == whole.len() - 1 { (3, 0) } else { (2, usize::from(!whole_line)) };
            assert_eq!((entries.len(), torn), expected, "{cut} of {}", whole.len());
        }
    }

    proptest! {
        #[test]
        fn hostile_logs_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(LOG);
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(read_log(&path).is_ok());
        }
    }
}
