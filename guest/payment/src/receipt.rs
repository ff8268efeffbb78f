//! What a client gets for its money: a signed statement of what was asked, answered, counted and charged.
//!
//! The session's key signs it, as it signs vouchers; it is for people and programs, never for a contract, so it may be
//! longer than a cell. Whoever holds it can show: this key, attested with this evidence, says that a request with this
//! hash got a response with that hash from a model with this root, at this price, for this many tokens.

use crate::bytes::{Reader, Writer};
use crate::error::VoucherError;
use crate::price::{Price, Tokens};
use crate::voucher::{Address, Voucher};

/// How a request ended that was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer came whole.
    Complete,
    /// The client cancelled; what was delivered is charged.
    Cancelled,
}

/// A signed receipt's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Of the network.
    pub global_id: i32,
    /// Whose vault was charged.
    pub vault: Address,
    /// The client's number of the request, unique within the session.
    pub request: u64,
    /// Unix time in seconds, by the proxy's clock, which is its host's: a hint.
    pub time: u64,
    /// SHA-256 of the request's body.
    pub request_hash: [u8; 32],
    /// SHA-256 of the response's body, as far as it was delivered.
    pub response_hash: [u8; 32],
    /// The model's verity root.
    pub model_root: [u8; 32],
    /// SHA-256 of the publication of the release that the worker showed.
    pub release: [u8; 32],
    /// SHA-256 of the worker's evidence as the proxy appraised it.
    pub evidence: [u8; 32],
    /// What was counted.
    pub tokens: Tokens,
    /// What a token cost.
    pub price: Price,
    /// nanoTON for this request.
    pub charged: u64,
    /// Total of the `Use` that was signed with it.
    pub total: u64,
    /// How it ended.
    pub end: End,
}

impl Voucher for Receipt {
    const TAG: [u8; 4] = *b"RCP1";
    const LENGTH: usize = 274;

    fn encode(&self) -> Vec<u8> {
        let (t, p) = (&self.tokens, &self.price);
        let w = Writer::tagged(Self::TAG, Self::LENGTH).i32(self.global_id).address(&self.vault);
        let w = w.u64(self.request).u64(self.time).raw(&self.request_hash).raw(&self.response_hash);
        let w = w.raw(&self.model_root).raw(&self.release).raw(&self.evidence);
        let w = w.u32(t.prompt).u32(t.cached).u32(t.completion).u32(t.reasoning);
        let w = w.u64(p.base).u32(p.prompt).u32(p.cached).u32(p.completion).u32(p.reasoning);
        w.u64(self.charged).u64(self.total).u8(u8::from(self.end == End::Cancelled)).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, VoucherError> {
        let mut r = Reader::tagged(bytes, Self::TAG, Self::LENGTH)?;
        let (global_id, vault, request, time) = (r.i32(), r.address(), r.u64(), r.u64());
        let (request_hash, response_hash) = (r.raw(), r.raw());
        let (model_root, release, evidence) = (r.raw(), r.raw(), r.raw());
        let tokens = Tokens { prompt: r.u32(), cached: r.u32(), completion: r.u32(), reasoning: r.u32() };
        let base = r.u64();
        let price = Price { base, prompt: r.u32(), cached: r.u32(), completion: r.u32(), reasoning: r.u32() };
        let (charged, total) = (r.u64(), r.u64());
        let end = match r.u8() {
            0 => End::Complete,
            1 => End::Cancelled,
            other => return Err(wrong("end", other.to_string(), "0 (complete) or 1 (cancelled)")),
        };
        Ok(Self {
            global_id,
            vault,
            request,
            time,
            request_hash,
            response_hash,
            model_root,
            release,
            evidence,
            tokens,
            price,
            charged,
            total,
            end,
        })
    }
}

impl Receipt {
    /// Whether the charge is what these tokens cost at this price, or less.
    ///
    /// # Errors
    /// [`VoucherError::Field`] for a receipt that contradicts itself.
    pub fn check(&self) -> Result<(), VoucherError> {
        let due = self.price.charge(&self.tokens).unwrap_or(u64::MAX);
        if self.charged > due {
            return Err(wrong(
                "charged",
                self.charged.to_string(),
                "at most what the tokens cost at the price",
            ));
        }
        if self.charged > self.total {
            return Err(wrong("total", self.total.to_string(), "at least what was charged"));
        }
        Ok(())
    }
}

fn wrong(field: &'static str, found: String, expected: &'static str) -> VoucherError {
    VoucherError::Field { what: "receipt", field, found, expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{SecretKey, Signed};
    use proptest::prelude::*;

    fn receipt() -> Receipt {
        let price = Price { base: 1_000_000, prompt: 10_000, cached: 0, completion: 20_000, reasoning: 0 };
        let tokens = Tokens { prompt: 3, completion: 4, ..Tokens::default() };
        Receipt {
            global_id: -239,
            vault: Address { workchain: 0, hash: [1; 32] },
            request: 7,
            time: 1_800_000_000,
            request_hash: [2; 32],
            response_hash: [3; 32],
            model_root: [4; 32],
            release: [5; 32],
            evidence: [6; 32],
            tokens,
            price,
            charged: 11,
            total: 30,
            end: End::Cancelled,
        }
    }

    #[test]
    fn a_receipt_round_trips_and_holds_together() {
        let bytes = receipt().encode();
        assert_eq!(bytes.len(), Receipt::LENGTH);
        assert_eq!(Receipt::decode(&bytes), Ok(receipt()));
        assert_eq!(receipt().check(), Ok(()));
    }

    #[test]
    fn a_receipt_that_charges_more_than_its_tokens_cost_is_refused() {
        let dear = Receipt { charged: 12, ..receipt() };
        assert!(matches!(dear.check(), Err(VoucherError::Field { field: "charged", .. })));
        let odd = Receipt { total: 10, ..receipt() };
        assert!(matches!(odd.check(), Err(VoucherError::Field { field: "total", .. })));
    }

    proptest! {
        #[test]
        fn any_changed_byte_of_a_signed_receipt_is_refused(at in 0usize..(Receipt::LENGTH + 64), bits in 1u8..) {
            let key = SecretKey::from_seed(&[9; 32]);
            let mut bytes = key.sign(receipt()).to_bytes();
            bytes[at] ^= bits;
            let read = Signed::<Receipt>::from_bytes(&bytes).and_then(|s| s.verify(&key.public()));
            prop_assert!(read.is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), Receipt::LENGTH)) {
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(b"RCP1");
            if let Ok(receipt) = Receipt::decode(&bytes) {
                let _ = receipt.check();
                prop_assert_eq!(receipt.encode(), bytes);
            }
        }
    }
}
