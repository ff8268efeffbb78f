//! A request under a cap, until it is known what it cost.
//!
//! ```text
//! sent --receipt in the trailers--> settled            --wrong--> refused: the proxy is left
//!      --ended without any--------> free                         (a charge after all would show at the next receipt)
//!      --dropped before its end---> receipt fetched, some tries --> settled | free | abandoned: its hold stays allowed
//! ```

use super::answer::Hashing;
use super::fault::Fault;
use super::proxy::{Live, Proxy, fetch};
use super::receipts::{Due, Entry, Outcome, receipt_of, use_of};
use super::{Book, Event, now};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use payment::receipt::End;
use payment::{PublicKey, Refused, Voucher};
use protocol::market::{self, Account, Blob, Body as _, Hex32, Most, ReceiptEntry, header, path};
use std::sync::Arc;
use std::time::Duration;

/// Pauses before a receipt is fetched.
const FETCHES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

/// What a request was sent with.
#[derive(Clone)]
pub struct Sent {
    /// The request's number.
    pub number: u64,
    /// The path.
    pub path: &'static str,
    /// The model's name.
    pub model: String,
    /// The weights that its receipt must name.
    pub root: [u8; 32],
    /// SHA-256 of the body.
    pub request_hash: [u8; 32],
    /// What was allowed.
    pub most: Most,
    /// nanoTON that were held.
    pub hold: u64,
    /// Who signs the receipt.
    pub key: PublicKey,
}

/// The rest of its life; see the module.
pub struct Pending {
    /// Until it is known what became of it.
    inner: Option<Inner>,
    hash: Hashing,
}

struct Inner {
    sent: Sent,
    proxy: Arc<Proxy>,
    book: Arc<Book>,
}

impl Pending {
    /// A request whose cap is signed.
    pub fn new(sent: Sent, proxy: Arc<Proxy>, book: Arc<Book>) -> Self {
        Self { inner: Some(Inner { sent, proxy, book }), hash: Hashing::default() }
    }

    /// The request's number.
    pub fn number(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.sent.number)
    }

    /// The app gets these bytes.
    pub fn delivered(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    /// The proxy refused before it dispatched; nothing is held.
    pub fn refused(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.proxy.account().refused(inner.sent.number);
        }
    }

    /// Settles an answer that must bring a receipt.
    ///
    /// # Errors
    /// 502; the proxy was left where it is its fault.
    pub fn settle(mut self, trailers: &HeaderMap, end: End) -> Result<Entry, Fault> {
        let Some(inner) = self.inner.take() else {
            return Err(Fault::internal("defect", "a request was settled twice"));
        };
        match inner.vouchers(trailers) {
            Some(vouchers) => inner.settle(vouchers, Some(self.hash.finish()), Some(end)),
            None => {
                inner.free();
                let message =
                    "the proxy answered without a receipt; the answer is withheld, nothing was charged";
                Err(Fault::peer("no_receipt", message))
            }
        }
    }

    /// Settles a stream, whose bytes are with the app already: a wrong receipt is told and logged.
    pub fn settle_stream(mut self, trailers: &HeaderMap) -> Option<Entry> {
        let inner = self.inner.take()?;
        match inner.vouchers(trailers) {
            Some(vouchers) => inner.settle(vouchers, Some(self.hash.finish()), Some(End::Complete)).ok(),
            None => {
                inner.free();
                None
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let (Some(inner), Ok(runtime)) = (self.inner.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(inner.fetch());
        }
    }
}

/// What the proxy signed.
struct Vouchers {
    used: Blob,
    receipt: Blob,
}

impl Inner {
    /// Both trailers, where they are there; what can't be read is empty, and no voucher.
    fn vouchers(&self, trailers: &HeaderMap) -> Option<Vouchers> {
        let blob = |name: &str| {
            let text = trailers.get(name)?.to_str().unwrap_or_default();
            Some(text.parse().unwrap_or_else(|_| Blob::new(Vec::new())))
        };
        match (blob(header::USE), blob(header::RECEIPT)) {
            (None, None) => None,
            (used, receipt) => {
                let none = || Blob::new(Vec::new());
                Some(Vouchers { used: used.unwrap_or_else(none), receipt: receipt.unwrap_or_else(none) })
            }
        }
    }

    /// Checks and books; the log has it before anybody is told.
    fn settle(self, vouchers: Vouchers, hash: Option<[u8; 32]>, end: Option<End>) -> Result<Entry, Fault> {
        match self.check(&vouchers, hash, end) {
            Ok(charged) => {
                let entry = Entry { charged, ..self.entry(Outcome::Settled, Some(vouchers)) };
                self.book.log(&entry);
                let (account, book) = (self.proxy.account().clone(), self.book.clone());
                tokio::spawn(async move {
                    if let Err(error) = account.flush().await {
                        (book.report)(Event::Unkept(&error));
                    }
                });
                Ok(entry)
            }
            // The proxy was restarted, or reached anew, since: its floor has what became of this request.
            Err(reason) if matches!(reason, Wrong::Refused(Refused::NoSuchRequest { .. })) => {
                let entry = self.entry(Outcome::Abandoned, Some(vouchers));
                self.book.log(&Entry { reason: Some(reason.to_string()), ..entry });
                Err(Fault::peer("late_receipt", "the receipt came after its session was begun anew"))
            }
            // The book changed between this end's look at it and the proxy's.
            Err(Wrong::Refused(Refused::WrongReceipt { field: "price" })) if self.repriced(&vouchers) => {
                self.proxy.account().abandon(self.sent.number);
                let message = "the price changed in the root's book meanwhile; ask again";
                let entry = self.entry(Outcome::Abandoned, Some(vouchers));
                self.book.log(&Entry { reason: Some(message.into()), ..entry });
                Err(Fault::away("price_changed", message))
            }
            Err(reason) => {
                let (account, number) = (self.proxy.account(), self.sent.number);
                account.abandon(number);
                let entry = self.entry(Outcome::Refused, Some(vouchers));
                self.book.log(&Entry { reason: Some(reason.to_string()), ..entry });
                self.proxy.leave(reason.to_string());
                let message = format!("the proxy's receipt is wrong, so it was left: {reason}");
                Err(Fault::peer("wrong_receipt", message))
            }
        }
    }

    fn check(&self, vouchers: &Vouchers, hash: Option<[u8; 32]>, end: Option<End>) -> Result<u64, Wrong> {
        let (receipt, used) = (receipt_of(&vouchers.receipt)?, use_of(&vouchers.used)?);
        let due = Due {
            request_hash: Some(self.sent.request_hash),
            response_hash: hash,
            model_root: Some(self.sent.root),
            release: None,
            most: Some(self.sent.most),
            end,
        };
        due.check(&receipt, &self.sent.key)?;
        Ok(self.proxy.account().settle(self.sent.number, &used, &receipt)?)
    }

    /// Whether the receipt has the price that the book has by now.
    fn repriced(&self, vouchers: &Vouchers) -> bool {
        let facts = self.book.facts.borrow();
        let price = facts.prices.get(&self.sent.root);
        receipt_of(&vouchers.receipt).is_ok_and(|receipt| Some(&receipt.voucher.price) == price)
    }

    /// It ended without a charge, by the word of the attested connection.
    fn free(self) {
        self.proxy.account().refused(self.sent.number);
        self.book.log(&self.entry(Outcome::Free, None));
    }

    fn entry(&self, outcome: Outcome, vouchers: Option<Vouchers>) -> Entry {
        let Sent { number, path, model, root, hold, key, .. } = &self.sent;
        let (receipt, used) = vouchers.map(|v| (v.receipt, v.used)).unzip();
        Entry {
            schema: 1,
            time: now(),
            outcome,
            path: (*path).into(),
            model: model.clone(),
            model_root: Hex32(*root),
            pool: account_of(self.proxy.pool()),
            vault: account_of(self.proxy.account().address()),
            request: *number,
            session_key: Hex32(key.to_bytes()),
            hold: *hold,
            charged: 0,
            reason: None,
            receipt,
            used,
        }
    }

    /// Fetches the receipt of an answer that was not read to its end.
    async fn fetch(self) {
        let vault = self.proxy.account().address();
        let path = format!("{}{vault}/{}", path::RECEIPTS, self.sent.number);
        let mut free = 0;
        for pause in FETCHES {
            tokio::time::sleep(pause).await;
            let Ok(live) = self.proxy.live().await else { continue };
            match self.ask(&live, &path).await {
                Some(Some(vouchers)) => {
                    drop(self.settle(vouchers, None, None));
                    return;
                }
                // Once may be before the request itself came in, over the connection that broke.
                Some(None) if free > 0 => return self.free(),
                Some(None) => free += 1,
                None => {}
            }
        }
        self.proxy.account().abandon(self.sent.number);
        let reason = "no receipt came; what was held stays allowed in this session".into();
        self.book.log(&Entry { reason: Some(reason), ..self.entry(Outcome::Abandoned, None) });
    }

    /// `None`: ask again; `Some(None)`: nothing was charged.
    async fn ask(&self, live: &Live, path: &str) -> Option<Option<Vouchers>> {
        // Another boot of the proxy knows nothing of it.
        if live.key != self.sent.key {
            return None;
        }
        let (status, body) = fetch(&live.requests, path, ReceiptEntry::LIMIT).await.ok()?;
        match status {
            StatusCode::OK => {
                let ReceiptEntry { used, receipt } = market::read(&body).ok()?;
                Some(Some(Vouchers { used, receipt }))
            }
            StatusCode::NOT_FOUND => {
                let error: protocol::openai::ErrorBody = serde_json::from_slice(&body).ok()?;
                (error.error.code.as_deref() == Some("not_charged")).then_some(None)
            }
            _ => None,
        }
    }
}

/// An account as the market writes it.
pub fn account_of(address: payment::Address) -> Account {
    Account { workchain: address.workchain, hash: address.hash }
}

/// Why a receipt is not booked.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Unfit(#[from] super::receipts::Unfit),
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl From<payment::VoucherError> for Wrong {
    fn from(error: payment::VoucherError) -> Self {
        Self::Refused(error.into())
    }
}

/// Only so that a type that is no voucher is never logged as one.
const _: () = assert!(payment::receipt::Receipt::LENGTH + 64 <= Blob::LIMIT);
