//! Many signatures at once, for about half the price of each alone, with the same answer for each.
//!
//! ```text
//! all --together--> good: all good
//!        \-> bad: halves, each again, down to SMALL; those one by one
//! ```
//! The equation that is checked for all together does not see errors in the torsion subgroup that cancel, and so takes
//! signatures which a contract would refuse: somebody could pay with vouchers that nobody can cash. Keys are in the
//! prime-order group already ([`PublicKey`]); for the points R of the signatures, sums over random subsets are held
//! against that group. A signature with torsion passes one such sum with probability 1/2 at most, so [`SUMS`] of them
//! with 2^-16 at most. The subsets come from a secret seed, since whoever knew them could choose signatures that cancel.

use crate::error::VoucherError;
use crate::sign::{PublicKey, Signed, Verified};
use crate::voucher::Voucher;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// Below this, signatures are checked one by one: a batch would not be cheaper.
const SMALL: usize = 8;

/// The most signatures in one equation; more are cut up. It bounds what one bad voucher costs.
pub const LARGE: usize = 256;

/// Random sums of the points R.
const SUMS: usize = 16;

/// A voucher and the key it should be signed by.
pub type Claimed<V> = (Signed<V>, PublicKey);

/// Checks every signature; the answers are in the order of `claims`, and each is what checking it alone would say,
/// but for chances of 2^-16 a batch of `LARGE` (see above). `seed` is secret, random and never used again.
pub fn verify<V: Voucher>(
    claims: Vec<Claimed<V>>,
    seed: &[u8; 32],
) -> Vec<Result<Verified<V>, VoucherError>> {
    let bytes: Vec<Vec<u8>> = claims.iter().map(|(signed, _)| signed.voucher.encode()).collect();
    let checks: Vec<Check<'_>> = claims
        .iter()
        .zip(&bytes)
        .map(|((signed, key), message)| Check {
            message,
            signature: Signature::from_bytes(&signed.signature),
            key: *key.inner(),
        })
        .collect();
    let mut good = Vec::with_capacity(checks.len());
    for (n, part) in checks.chunks(LARGE).enumerate() {
        halves(part, &Subsets { seed, part: n as u64 }, &mut good);
    }
    let answer = |((signed, key), good): (Claimed<V>, bool)| match good {
        true => Ok(signed.trusted(key)),
        false => Err(signed.refused(&key)),
    };
    claims.into_iter().zip(good).map(answer).collect()
}

/// One signature to be checked.
struct Check<'a> {
    message: &'a [u8],
    signature: Signature,
    key: VerifyingKey,
}

/// Appends whether each is good.
fn halves(checks: &[Check<'_>], subsets: &Subsets<'_>, good: &mut Vec<bool>) {
    if checks.len() <= SMALL {
        good.extend(checks.iter().map(|c| c.key.verify_strict(c.message, &c.signature).is_ok()));
    } else if together(checks) && subsets.sums_are_torsion_free(checks) {
        good.extend(checks.iter().map(|_| true));
    } else {
        let (left, right) = checks.split_at(checks.len() / 2);
        halves(left, subsets, good);
        halves(right, subsets, good);
    }
}

/// The one equation for all of them.
fn together(checks: &[Check<'_>]) -> bool {
    let messages: Vec<&[u8]> = checks.iter().map(|c| c.message).collect();
    let signatures: Vec<Signature> = checks.iter().map(|c| c.signature).collect();
    let keys: Vec<VerifyingKey> = checks.iter().map(|c| c.key).collect();
    ed25519_dalek::verify_batch(&messages, &signatures, &keys).is_ok()
}

/// Where random subsets come from.
struct Subsets<'a> {
    seed: &'a [u8; 32],
    part: u64,
}

impl Subsets<'_> {
    /// [`SUMS`] bits for each signature: which sums it is in.
    fn of(&self, index: usize, check: &Check<'_>) -> u16 {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(self.part.to_be_bytes());
        hash.update((index as u64).to_be_bytes());
        hash.update(check.signature.r_bytes());
        let digest = hash.finalize();
        u16::from_be_bytes([digest[0], digest[1]])
    }

    /// Whether all the sums of points R lie in the prime-order group, and every R is written canonically.
    fn sums_are_torsion_free(&self, checks: &[Check<'_>]) -> bool {
        let mut sums = [EdwardsPoint::default(); SUMS];
        for (index, check) in checks.iter().enumerate() {
            let compressed = CompressedEdwardsY(*check.signature.r_bytes());
            let Some(point) = compressed.decompress() else { return false };
            // TVM compares R as bytes, so another spelling of the same point is no signature.
            if !canonical(&compressed) || point.is_small_order() {
                return false;
            }
            let bits = self.of(index, check);
            let chosen = sums.iter_mut().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
            chosen.for_each(|(_, sum)| *sum += point);
        }
        sums.iter().all(EdwardsPoint::is_torsion_free)
    }
}

/// Whether the 255 bits of y are less than the field's prime, 2^255 - 19. (A sign bit on x = 0 is of small order.)
fn canonical(compressed: &CompressedEdwardsY) -> bool {
    let y = compressed.as_bytes();
    let all_ones = y[1..31].iter().all(|b| *b == 0xff) && y[31] & 0x7f == 0x7f;
    !(all_ones && y[0] >= 0xed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SecretKey;
    use crate::voucher::{Address, Use};
    use curve25519_dalek::constants::EIGHT_TORSION;
    use curve25519_dalek::scalar::Scalar;
    use proptest::prelude::*;
    use sha2::Sha512;

    fn use_of(total: u64) -> Use {
        Use { global_id: -239, vault: Address { workchain: 0, hash: [7; 32] }, total }
    }

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn batch(size: usize) -> Vec<Claimed<Use>> {
        (0..size).map(|n| (key(n as u8 % 5).sign(use_of(n as u64)), key(n as u8 % 5).public())).collect()
    }

    /// A signature by `seed` whose R carries torsion: the equation of a batch holds up to that torsion.
    fn with_torsion(seed: &[u8; 32], voucher: Use, torsion: EdwardsPoint) -> Claimed<Use> {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let nonce = Scalar::from_bytes_mod_order([42; 32]);
        let r = (EdwardsPoint::mul_base(&nonce) + torsion).compress();
        let mut hash = Sha512::new();
        hash.update(r.as_bytes());
        hash.update(secret.verifying_key().as_bytes());
        hash.update(voucher.encode());
        let challenge = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        let s = nonce + challenge * secret.to_scalar();
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(r.as_bytes());
        signature[32..].copy_from_slice(s.as_bytes());
        (Signed { voucher, signature }, SecretKey::from_seed(seed).public())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]

        #[test]
        fn a_batch_says_of_each_what_it_would_alone(
            size in 0usize..60, bad in prop::collection::vec((any::<prop::sample::Index>(), 0usize..64, 1u8..), 0..4),
            seed: [u8; 32],
        ) {
            let mut claims = batch(size);
            for (index, at, bits) in bad {
                if size > 0 {
                    claims[index.index(size)].0.signature[at] ^= bits;
                }
            }
            let alone: Vec<_> = claims.iter().map(|(s, k)| s.verify(k)).collect();
            prop_assert_eq!(verify(claims, &seed), alone);
        }
    }

    #[test]
    fn torsion_that_cancels_in_the_equation_is_refused() {
        let order_two = EIGHT_TORSION[4];
        let forged = |total| with_torsion(&[total as u8; 32], use_of(total), order_two);
        assert!(forged(9).0.verify(&forged(9).1).is_err(), "alone it is refused, as a contract would");
        let mut escaped = 0;
        let mut taken = 0;
        for round in 0..8u64 {
            let mut claims = batch(30);
            claims.push(forged(round));
            claims.push(forged(100 + round));
            let bytes: Vec<_> = claims.iter().map(|c| c.0.voucher.encode()).collect();
            let check = |((s, k), m): (&Claimed<Use>, &Vec<u8>)| {
                let message: &'static [u8] = m.clone().leak();
                Check { message, signature: Signature::from_bytes(&s.signature), key: *k.inner() }
            };
            let checks: Vec<_> = claims.iter().zip(&bytes).map(check).collect();
            escaped += usize::from(together(&checks));
            taken += verify(claims, &[round as u8; 32]).iter().filter(|r| r.is_ok()).count() - 30;
        }
        assert!(escaped > 0, "the equation alone takes such signatures, else this guard is for nothing");
        assert_eq!(taken, 0);
    }

    #[test]
    fn a_key_outside_the_prime_order_group_is_refused() {
        let good = key(1).public();
        let shifted = (good.inner().to_edwards() + EIGHT_TORSION[1]).compress().to_bytes();
        assert!(PublicKey::from_bytes(&good.to_bytes()).is_ok());
        assert!(matches!(PublicKey::from_bytes(&shifted), Err(VoucherError::Key(_))));
        assert!(matches!(PublicKey::from_bytes(&[0; 32]), Err(VoucherError::Key(_))));
    }

    #[test]
    fn another_spelling_of_r_is_not_canonical() {
        let mut y = [0xff; 32];
        (y[0], y[31]) = (0xed, 0x7f);
        assert!(!canonical(&CompressedEdwardsY(y)));
        y[0] = 0xec;
        assert!(canonical(&CompressedEdwardsY(y)));
    }
}
