//! The five vouchers, byte for byte as the contracts read them (`contracts/common.tolk`).
//!
//! Each is a tag, the network's global id, the account of the contract it is for, and its own fields: fixed length, all
//! integers big-endian. The Ed25519 signature is over these bytes themselves, as TVM's `CHKSIGNS` checks them.
//! Totals only grow, so a later voucher replaces an earlier one and a repeated one changes nothing.

use crate::bytes::{Reader, Writer};
use crate::error::VoucherError;
use serde::{Deserialize, Serialize};

/// An account of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// 0 for the base chain, where all of this lives.
    pub workchain: i8,
    /// Hash of the contract's first code and data.
    pub hash: [u8; 32],
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.workchain, hex::encode(self.hash))
    }
}

/// Something that is signed and that a contract or a peer acts on.
pub trait Voucher: Sized + Clone {
    /// The first four bytes; no two kinds of signed bytes share them.
    const TAG: [u8; 4];
    /// Length of the whole in bytes.
    const LENGTH: usize;

    /// The bytes that are signed.
    fn encode(&self) -> Vec<u8>;

    /// Reads what [`Voucher::encode`] wrote.
    ///
    /// # Errors
    /// [`VoucherError::Length`] and [`VoucherError::Tag`]: every right length with the right tag is some voucher.
    fn decode(bytes: &[u8]) -> Result<Self, VoucherError>;
}

/// The client allows `session_key` to charge `vault` up to `cap` nanoTON in all, over the vault's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Of the network.
    pub global_id: i32,
    /// The client's vault.
    pub vault: Address,
    /// Unix time in seconds after which the vault pays nothing for it.
    pub valid_until: u32,
    /// The only key whose [`Use`] it covers.
    pub session_key: [u8; 32],
    /// nanoTON.
    pub cap: u64,
}

impl Voucher for Cap {
    const TAG: [u8; 4] = *b"CAP1";
    const LENGTH: usize = 85;

    fn encode(&self) -> Vec<u8> {
        let w = Writer::tagged(Self::TAG, Self::LENGTH).i32(self.global_id).address(&self.vault);
        w.u32(self.valid_until).raw(&self.session_key).u64(self.cap).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, VoucherError> {
        let mut r = Reader::tagged(bytes, Self::TAG, Self::LENGTH)?;
        let (global_id, vault, valid_until) = (r.i32(), r.address(), r.u32());
        Ok(Self { global_id, vault, valid_until, session_key: r.raw(), cap: r.u64() })
    }
}

/// The session's key says that `total` nanoTON of `vault` were used in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Of the network.
    pub global_id: i32,
    /// The client's vault.
    pub vault: Address,
    /// nanoTON, over the vault's life.
    pub total: u64,
}

impl Voucher for Use {
    const TAG: [u8; 4] = *b"USE1";
    const LENGTH: usize = 49;

    fn encode(&self) -> Vec<u8> {
        let w = Writer::tagged(Self::TAG, Self::LENGTH).i32(self.global_id);
        w.address(&self.vault).u64(self.total).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, VoucherError> {
        let mut r = Reader::tagged(bytes, Self::TAG, Self::LENGTH)?;
        Ok(Self { global_id: r.i32(), vault: r.address(), total: r.u64() })
    }
}

/// `key` agrees to be session `epoch` of `pool`. Signed by `key` itself; the owner's message carries it to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Of the network.
    pub global_id: i32,
    /// The pool to be served.
    pub pool: Address,
    /// One more than the pool's newest.
    pub epoch: u32,
    /// Made at this boot, in memory only.
    pub key: [u8; 32],
    /// Unix time in seconds after which the pool doesn't register it.
    pub valid_until: u32,
}

impl Voucher for Session {
    const TAG: [u8; 4] = *b"SES1";
    const LENGTH: usize = 81;

    fn encode(&self) -> Vec<u8> {
        let w = Writer::tagged(Self::TAG, Self::LENGTH).i32(self.global_id).address(&self.pool);
        w.u32(self.epoch).raw(&self.key).u32(self.valid_until).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, VoucherError> {
        let mut r = Reader::tagged(bytes, Self::TAG, Self::LENGTH)?;
        let (global_id, pool, epoch) = (r.i32(), r.address(), r.u32());
        Ok(Self { global_id, pool, epoch, key: r.raw(), valid_until: r.u32() })
    }
}

/// `worker` has earned `total` nanoTON in session `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payout {
    /// Of the network.
    pub global_id: i32,
    /// The pool that pays.
    pub pool: Address,
    /// The session whose pot pays.
    pub epoch: u32,
    /// Who is paid, whoever sends the claim.
    pub worker: Address,
    /// nanoTON, over the session.
    pub total: u64,
}

impl Voucher for Payout {
    const TAG: [u8; 4] = *b"PAY1";
    const LENGTH: usize = 86;

    fn encode(&self) -> Vec<u8> {
        let w = Writer::tagged(Self::TAG, Self::LENGTH).i32(self.global_id).address(&self.pool);
        w.u32(self.epoch).address(&self.worker).u64(self.total).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, VoucherError> {
        let mut r = Reader::tagged(bytes, Self::TAG, Self::LENGTH)?;
        let (global_id, pool, epoch) = (r.i32(), r.address(), r.u32());
        Ok(Self { global_id, pool, epoch, worker: r.address(), total: r.u64() })
    }
}

/// The session needs `total` nanoTON of its pot no longer; they go to the pool's reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surplus {
    /// Of the network.
    pub global_id: i32,
    /// The pool.
    pub pool: Address,
    /// The session whose pot it is.
    pub epoch: u32,
    /// nanoTON, over the session.
    pub total: u64,
}

impl Voucher for Surplus {
    const TAG: [u8; 4] = *b"SUR1";
    const LENGTH: usize = 53;

    fn encode(&self) -> Vec<u8> {
        let w = Writer::tagged(Self::TAG, Self::LENGTH).i32(self.global_id).address(&self.pool);
        w.u32(self.epoch).u64(self.total).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, VoucherError> {
        let mut r = Reader::tagged(bytes, Self::TAG, Self::LENGTH)?;
        Ok(Self { global_id: r.i32(), pool: r.address(), epoch: r.u32(), total: r.u64() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{SecretKey, Signed};
    use proptest::prelude::*;

    const PLACE: Address = Address { workchain: 0, hash: [0x11; 32] };

    /// Decoding is the inverse of encoding, and the lengths are those that are stated.
    fn round_trip<V: Voucher + PartialEq + std::fmt::Debug>(voucher: V) {
        let bytes = voucher.encode();
        assert_eq!((bytes.len(), &bytes[..4]), (V::LENGTH, &V::TAG[..]));
        assert_eq!(V::decode(&bytes).as_ref(), Ok(&voucher));
        assert!(V::LENGTH <= 127, "a cell holds 1023 bits");
        for short in 0..bytes.len() {
            assert!(matches!(V::decode(&bytes[..short]), Err(VoucherError::Length { .. })));
        }
    }

    #[test]
    fn every_voucher_round_trips_and_no_prefix_is_one() {
        round_trip(Cap { global_id: -3, vault: PLACE, valid_until: 9, session_key: [5; 32], cap: 1 });
        round_trip(Use { global_id: -239, vault: PLACE, total: u64::MAX });
        round_trip(Session { global_id: -239, pool: PLACE, epoch: 2, key: [3; 32], valid_until: 1 });
        round_trip(Payout { global_id: -239, pool: PLACE, epoch: 2, worker: PLACE, total: 4 });
        round_trip(Surplus { global_id: -239, pool: PLACE, epoch: 2, total: 4 });
    }

    #[test]
    fn a_use_is_laid_out_as_the_contract_reads_it() {
        let bytes = Use { global_id: -239, vault: PLACE, total: 258 }.encode();
        let expected = format!("55534531{}00{}0000000000000102", "ffffff11", "11".repeat(32));
        assert_eq!(hex::encode(bytes), expected);
    }

    #[test]
    fn one_kind_of_voucher_is_never_read_as_another() {
        let surplus = Surplus { global_id: 1, pool: PLACE, epoch: 1, total: 1 }.encode();
        let mut tagged = surplus;
        tagged.truncate(Use::LENGTH);
        assert!(matches!(Use::decode(&tagged), Err(VoucherError::Tag { .. })));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Signed::<Cap>::from_bytes(&bytes);
            let _ = Signed::<Use>::from_bytes(&bytes);
            let _ = Signed::<Session>::from_bytes(&bytes);
            let _ = Signed::<Payout>::from_bytes(&bytes);
            let _ = Signed::<Surplus>::from_bytes(&bytes);
        }

        #[test]
        fn a_changed_byte_is_refused(at in 0usize..(Use::LENGTH + 64), bits in 1u8..) {
            let key = SecretKey::from_seed(&[1; 32]);
            let mut bytes = key.sign(Use { global_id: -239, vault: PLACE, total: 7 }).to_bytes();
            bytes[at] ^= bits;
            let read = Signed::<Use>::from_bytes(&bytes).and_then(|s| s.verify(&key.public()));
            prop_assert!(read.is_err_and(|e| e.is_peer_fault()));
        }
    }
}
