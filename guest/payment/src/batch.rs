//! Many signatures at once, for less than half the price of each alone, with the same answer for each.
//!
//! ```text
//! all --together--> good: all good
//!        \-> bad: halves, each again, down to SMALL; those one by one
//! ```
//! The equation that is checked for all together does not see errors in the torsion subgroup that cancel, and so takes
//! signatures which a contract would refuse: somebody could pay with vouchers that nobody can cash. Keys are in the
//! prime-order group already ([`PublicKey`]); for the points R of the signatures, sums over random subsets are held
//! against that group. A signature with torsion passes one such sum with probability 1/2 at most, so [`SUMS`] of them
//! with 2^-16 at most. Subsets and factors come from a secret seed, since whoever knew them could choose signatures that cancel.

use crate::error::VoucherError;
use crate::sign::{PublicKey, Signed, Verified};
use crate::voucher::Voucher;
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256, Sha512};
use std::collections::BTreeMap;

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
        halves(part, &Draws { seed, part: n as u64 }, &mut good);
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
fn halves(checks: &[Check<'_>], draws: &Draws<'_>, good: &mut Vec<bool>) {
    if checks.len() <= SMALL {
        good.extend(checks.iter().map(|c| c.key.verify_strict(c.message, &c.signature).is_ok()));
    } else if Sums::of(checks, draws).is_some_and(|sums| sums.hold() && sums.are_torsion_free()) {
        good.extend(checks.iter().map(|_| true));
    } else {
        let (left, right) = checks.split_at(checks.len() / 2);
        halves(left, draws, good);
        halves(right, draws, good);
    }
}

/// Where randomness comes from.
struct Draws<'a> {
    seed: &'a [u8; 32],
    part: u64,
}

impl Draws<'_> {
    /// For one signature: its factor in the equation, 128 bits, and [`SUMS`] bits: which sums its R is in.
    fn of(&self, index: usize, check: &Check<'_>) -> (Scalar, u16) {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(self.part.to_be_bytes());
        hash.update((index as u64).to_be_bytes());
        hash.update(check.signature.to_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut factor = [0; 16];
        factor.copy_from_slice(&digest[..16]);
        (Scalar::from(u128::from_be_bytes(factor)), u16::from_be_bytes([digest[16], digest[17]]))
    }
}

/// Both sides of the equation, and the sums over subsets; each R is unpacked once for all of it.
struct Sums {
    factors: Vec<Scalar>,
    points: Vec<EdwardsPoint>,
    subsets: [EdwardsPoint; SUMS],
}

impl Sums {
    /// `None` where a signature is none: R no point, of small order or written otherwise than TVM writes it, or S too large.
    ///
    /// sum(z S) B = sum(z R) + sum(z H(R, A, M)) A, for a random z of each signature (RFC 8032 section 5.1.7, without the
    /// cofactor). Keys that come several times have one term.
    fn of(checks: &[Check<'_>], draws: &Draws<'_>) -> Option<Self> {
        let mut sums = Sums {
            factors: Vec::with_capacity(2 * checks.len() + 1),
            points: Vec::with_capacity(2 * checks.len() + 1),
            subsets: [EdwardsPoint::default(); SUMS],
        };
        let mut base = Scalar::ZERO;
        let mut keys: BTreeMap<[u8; 32], (EdwardsPoint, Scalar)> = BTreeMap::new();
        for (index, check) in checks.iter().enumerate() {
            let compressed = CompressedEdwardsY(*check.signature.r_bytes());
            let point = compressed.decompress()?;
            // TVM compares R as bytes, so another spelling of the same point is no signature.
            if !canonical(&compressed) || point.is_small_order() {
                return None;
            }
            let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(*check.signature.s_bytes()))?;
            let (factor, bits) = draws.of(index, check);
            base += factor * s;
            let key = keys.entry(check.key.to_bytes());
            key.or_insert_with(|| (check.key.to_edwards(), Scalar::ZERO)).1 += factor * challenge(check);
            let chosen = sums.subsets.iter_mut().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
            chosen.for_each(|(_, sum)| *sum += point);
            sums.factors.push(factor);
            sums.points.push(point);
        }
        sums.factors.extend(keys.values().map(|(_, factor)| *factor).chain([-base]));
        sums.points.extend(keys.values().map(|(point, _)| *point).chain([ED25519_BASEPOINT_POINT]));
        Some(sums)
    }

    /// Whether the equation holds.
    fn hold(&self) -> bool {
        EdwardsPoint::vartime_multiscalar_mul(&self.factors, &self.points).is_identity()
    }

    /// Whether all the sums of points R lie in the prime-order group.
    fn are_torsion_free(&self) -> bool {
        self.subsets.iter().all(EdwardsPoint::is_torsion_free)
    }
}

/// H(R, A, M) of RFC 8032.
fn challenge(check: &Check<'_>) -> Scalar {
    let mut hash = Sha512::new();
    hash.update(check.signature.r_bytes());
    hash.update(check.key.as_bytes());
    hash.update(check.message);
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
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
    use proptest::prelude::*;

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
            let draws = Draws { seed: &[round as u8; 32], part: 0 };
            escaped += usize::from(Sums::of(&checks, &draws).unwrap().hold());
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
