//! A client's word that a request is its own.
//!
//! A cap is no secret: whoever claims with it shows it to the chain, and a proxy hands it to anybody who would claim. So
//! a cap says only how much may be charged; that *this* request may be charged is said by an order, signed by the
//! same key and good for one number, one body and one session. Without it, whoever reads a cap could spend what its
//! owner left unused.
//!
//! Like a receipt it is for proxies alone, never for a contract.

use crate::bytes::{Reader, Writer};
use crate::error::VoucherError;
use crate::voucher::{Address, Voucher};

/// The client asks `session_key` to charge `vault` for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Of the network.
    pub global_id: i32,
    /// The client's vault.
    pub vault: Address,
    /// The session that may charge it.
    pub session_key: [u8; 32],
    /// The client's number of the request, unique within the session.
    pub request: u64,
    /// SHA-256 of the request's body.
    pub request_hash: [u8; 32],
    /// The most tokens that are read.
    pub prompt: u32,
    /// The most tokens that are written.
    pub completion: u32,
}

impl Voucher for Order {
    const TAG: [u8; 4] = *b"ORD1";
    const LENGTH: usize = 121;

    fn encode(&self) -> Vec<u8> {
        let w = Writer::tagged(Self::TAG, Self::LENGTH).i32(self.global_id).address(&self.vault);
        let w = w.raw(&self.session_key).u64(self.request).raw(&self.request_hash);
        w.u32(self.prompt).u32(self.completion).done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, VoucherError> {
        let mut r = Reader::tagged(bytes, Self::TAG, Self::LENGTH)?;
        let (global_id, vault, session_key) = (r.i32(), r.address(), r.raw());
        let (request, request_hash) = (r.u64(), r.raw());
        let (prompt, completion) = (r.u32(), r.u32());
        Ok(Self { global_id, vault, session_key, request, request_hash, prompt, completion })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{SecretKey, Signed};
    use proptest::prelude::*;

    fn order() -> Order {
        let vault = Address { workchain: 0, hash: [1; 32] };
        let (session_key, request_hash) = ([2; 32], [3; 32]);
        Order { global_id: -239, vault, session_key, request: 7, request_hash, prompt: 8, completion: 9 }
    }

    #[test]
    fn an_order_round_trips() {
        assert_eq!(order().encode().len(), Order::LENGTH);
        assert_eq!(Order::decode(&order().encode()), Ok(order()));
    }

    proptest! {
        #[test]
        fn any_changed_byte_of_a_signed_order_is_refused(at in 0usize..(Order::LENGTH + 64), bits in 1u8..) {
            let key = SecretKey::from_seed(&[9; 32]);
            let mut bytes = key.sign(order()).to_bytes();
            bytes[at] ^= bits;
            let read = Signed::<Order>::from_bytes(&bytes).and_then(|s| s.verify(&key.public()));
            prop_assert!(read.is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..240)) {
            let _ = Signed::<Order>::from_bytes(&bytes);
        }
    }
}
