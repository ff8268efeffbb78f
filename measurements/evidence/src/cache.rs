//! What was verified once, kept until the first thing that it rests on expires.
//!
//! ```text
//! root, collateral, PCK chain and everything else of a quote that dcap-qvl judges --SHA-256--> Known
//!     Known: the endorsements as found, their window, the PCK's key, and QE reports that it signed
//! further quote:  same key -> QE report signature, key binding, quote signature     two P-256 checks
//!                 and the same QE report, signature and attestation key             one
//! anything else, and any doubt -> the slow path, which alone can refuse
//! ```
//! What the library decides is a function of root, collateral, PCK chain, time window, the fields hashed into the key, and
//! two signatures with one hash between them. The first are compared by hash, the window by the time passed in, and the
//! signatures are checked again; a remembered answer is therefore the library's own. A failing check is never answered from
//! here: the slow path is asked, so that warm and cold verdicts are equal in every word.
//!
//! Bounded in entries and bytes, least recently used first out; no clock. Beside them stands what a few event logs come to
//! ([`crate::replays`]).

use crate::appraise::{Appraised, Inputs, Refused, appraise_with, verify_with};
use crate::quote::Quote;
use crate::replays::Replays;
use crate::signatures::Endorsed;
use crate::td::TD10_LEN;
use crate::{Collateral, Policy, Reference, Verdict};
use measure::wire::Evidence;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// QE reports kept for one platform: it has one, and another after each restart of its quoting service.
const MAX_QE_REPORTS: usize = 4;
/// Bytes of a TD report body before MRTD: SVNs, module, attributes and features.
const BODY_HEAD: usize = 136;
/// Bytes of a quote's header before its user data.
const HEADER_HEAD: usize = 28;
/// Bytes of an enclave report before its report data.
const QE_REPORT_HEAD: usize = 320;
/// Bytes of P-256's `SubjectPublicKeyInfo` bit string, uncompressed.
const POINT: usize = 65;

pub(crate) type Key = [u8; 32];

/// A verifier that remembers platforms. One serves any number of policies and threads.
#[derive(Debug)]
pub struct Cache {
    inner: Mutex<Inner>,
    replays: Replays,
    max_entries: usize,
    max_bytes: usize,
}

/// How a cache has done, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Quotes whose platform and QE report were known: one P-256 check.
    pub repeated: u64,
    /// Quotes whose platform was known: two P-256 checks.
    pub known: u64,
    /// Quotes that took the slow path.
    pub missed: u64,
    /// Platforms kept now.
    pub entries: usize,
    /// Bytes kept now, about, without event logs.
    pub bytes: usize,
    /// Event logs that were known in the very same bytes: not replayed.
    pub known_logs: u64,
    /// Event logs kept now, at most 8.
    pub logs: usize,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Key, Known>,
    /// Counts uses, to tell the least recent.
    clock: u64,
    stats: CacheStats,
}

#[derive(Debug)]
struct Known {
    endorsed: Arc<Endorsed>,
    from: u64,
    until: u64,
    bytes: usize,
    used: u64,
    qe_reports: Vec<Key>,
}

impl Default for Cache {
    /// 1,024 platforms, 16 MiB.
    fn default() -> Self {
        Cache::new(1024, 16 * 1024 * 1024)
    }
}

impl Cache {
    /// An empty cache of at most that many platforms and about that many bytes, and 8 event logs.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        let replays = Replays::new(max_entries);
        Cache { inner: Mutex::default(), replays, max_entries, max_bytes }
    }

    /// As [`crate::verify`], faster where the platform is known.
    pub fn verify(&self, inputs: &Inputs<'_>) -> Verdict {
        verify_with(Some(self), inputs)
    }

    /// As [`crate::appraise`], faster where the platform is known.
    pub fn appraise(
        &self,
        evidence: &Evidence,
        collateral: &Collateral,
        policy: &Policy,
        reference: &Reference,
        expected_report_data: &[u8; 64],
        at: u64,
    ) -> Result<Appraised, Refused> {
        appraise_with(Some(self), evidence, collateral, policy, reference, expected_report_data, at)
    }

    /// How it has done.
    pub fn stats(&self) -> CacheStats {
        let inner = self.lock();
        let (known_logs, logs) = self.replays.stats();
        CacheStats { entries: inner.entries.len(), bytes: inner.bytes(), known_logs, logs, ..inner.stats }
    }

    pub(crate) fn replays(&self) -> &Replays {
        &self.replays
    }

    /// The endorsements of this quote's platform, if they are known to hold now and the quote's own signatures hold.
    pub(crate) fn known(
        &self,
        key: Option<&Key>,
        inputs: &Inputs<'_>,
        quote: &Quote,
    ) -> Option<Arc<Endorsed>> {
        let key = key?;
        let report = qe_report(key, quote);
        let (endorsed, repeated) = self.lock().find(key, &report, inputs.at)?;
        // Signatures are checked with the lock open.
        if !repeated && !qe_signed(&endorsed.pck_key, quote) {
            return None;
        }
        let signed = inputs.quote.get(..quote.signed_len)?;
        // SEC1, uncompressed.
        let mut attestation_key = [4; POINT];
        attestation_key[1..].copy_from_slice(&quote.signature.attestation_key.0);
        if !verify(&attestation_key, signed, &quote.signature.signature.0) {
            return None;
        }
        self.lock().count(key, &report, repeated);
        Some(endorsed)
    }

    /// Keeps what the slow path found, if all of it held.
    pub(crate) fn learn(
        &self,
        key: Option<Key>,
        inputs: &Inputs<'_>,
        quote: &Quote,
        endorsed: &Arc<Endorsed>,
    ) {
        let mut inner = self.lock();
        inner.stats.missed += 1;
        let Some(Ok(window)) = &endorsed.window else { return };
        let evaluated = endorsed.levels.as_ref().is_some_and(|levels| levels.evaluated.is_ok());
        if !endorsed.verified || !evaluated || endorsed.pck_key.len() != POINT {
            return;
        }
        let Some(key) = key else { return };
        let bytes = endorsed.size();
        if bytes > self.max_bytes || self.max_entries == 0 {
            return;
        }
        inner.entries.retain(|_, known| inputs.at < known.until);
        inner.clock += 1;
        let known = Known {
            endorsed: endorsed.clone(),
            from: window.from,
            until: window.until,
            bytes,
            used: inner.clock,
            qe_reports: vec![qe_report(&key, quote)],
        };
        inner.entries.insert(key, known);
        while inner.entries.len() > self.max_entries || inner.bytes() > self.max_bytes {
            inner.drop_oldest();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn bytes(&self) -> usize {
        self.entries.values().map(|known| known.bytes).sum()
    }

    /// The platform, and whether this QE report of it was seen before.
    fn find(&mut self, key: &Key, report: &Key, at: u64) -> Option<(Arc<Endorsed>, bool)> {
        let known = self.entries.get_mut(key)?;
        if at < known.from || at >= known.until {
            return None;
        }
        self.clock += 1;
        known.used = self.clock;
        Some((known.endorsed.clone(), known.qe_reports.contains(report)))
    }

    fn count(&mut self, key: &Key, report: &Key, repeated: bool) {
        if repeated {
            self.stats.repeated += 1;
            return;
        }
        self.stats.known += 1;
        // The entry may have been dropped while the lock was open.
        let Some(known) = self.entries.get_mut(key) else { return };
        if known.qe_reports.len() == MAX_QE_REPORTS {
            known.qe_reports.remove(0);
        }
        known.qe_reports.push(*report);
    }

    fn drop_oldest(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| *key);
        oldest.and_then(|key| self.entries.remove(&key));
    }
}

/// Everything that the library judges, but the signatures of this very quote: root, collateral, PCK chain, the header
/// before its user data, the body before and behind the measurements, the QE report before its report data.
pub(crate) fn key(inputs: &Inputs<'_>, quote: &Quote) -> Option<Key> {
    let (bytes, signature) = (inputs.quote, &quote.signature);
    let body = quote.signed_len.checked_sub(quote.td.wire_len())?;
    let mut hash = Sha256::new();
    hash.update(inputs.policy.root_fingerprint());
    hash.update(inputs.collateral.digest());
    hash.update(bytes.get(..HEADER_HEAD)?);
    hash.update(bytes.get(HEADER_HEAD + 20..body + BODY_HEAD)?);
    hash.update(bytes.get(body + TD10_LEN..quote.signed_len)?);
    hash.update(&signature.qe_report.0[..QE_REPORT_HEAD]);
    hash.update((signature.qe_auth_data.len() as u64).to_le_bytes());
    let chain = &signature.pck_chain;
    let (leaf, tail) = before_issuers(chain, inputs.collateral).unwrap_or((chain, &[]));
    hash.update((chain.len() as u64).to_le_bytes());
    hash.update((leaf.len() as u64).to_le_bytes());
    hash.update(leaf);
    hash.update(tail);
    Some(hash.finalize().into())
}

/// What stands in a PCK chain before and behind the issuers that the collateral has as well, in the very same bytes: those
/// are in its hash already, and are two thirds of the chain. `None` where the chain does not end in them.
fn before_issuers<'a>(chain: &'a [u8], collateral: &Collateral) -> Option<(&'a [u8], &'a [u8])> {
    let issuers = collateral.fields().pck_crl_issuer_chain.as_bytes().trim_ascii_end();
    // Quoting libraries append the NUL of a C string.
    let filler = chain.iter().rev().take_while(|byte| **byte == 0 || byte.is_ascii_whitespace()).count();
    let (certificates, tail) = chain.split_at_checked(chain.len().checked_sub(filler)?)?;
    let leaf = certificates.strip_suffix(issuers).filter(|_| !issuers.is_empty())?;
    Some((leaf, tail))
}

/// The platform's key (and so its PCK), QE report, its signature, attestation key and what the report commits to beside it.
fn qe_report(key: &Key, quote: &Quote) -> Key {
    let signature = &quote.signature;
    Sha256::new()
        .chain_update(key)
        .chain_update(signature.qe_report.0)
        .chain_update(signature.qe_report_signature.0)
        .chain_update(signature.attestation_key.0)
        .chain_update(&signature.qe_auth_data)
        .finalize()
        .into()
}

/// The QE report is signed by the PCK and names the attestation key (appendix A.3.8: SHA-256 of key and authentication data
/// in the first half of the report data).
fn qe_signed(pck_key: &[u8], quote: &Quote) -> bool {
    let signature = &quote.signature;
    let named = Sha256::new()
        .chain_update(signature.attestation_key.0)
        .chain_update(&signature.qe_auth_data)
        .finalize();
    signature.qe_report.0[QE_REPORT_HEAD..QE_REPORT_HEAD + 32] == named[..]
        && verify(pck_key, &signature.qe_report.0, &signature.qe_report_signature.0)
}

/// ECDSA P-256 with SHA-256, `r || s`.
fn verify(key: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collateral(issuers: &str) -> Collateral {
        let json = serde_json::json!({
            "pck_crl_issuer_chain": issuers, "root_ca_crl": "", "pck_crl": "", "tcb_info_issuer_chain": "",
            "tcb_info": "", "tcb_info_signature": "", "qe_identity_issuer_chain": "", "qe_identity": "",
            "qe_identity_signature": "",
        });
        Collateral::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn of_a_chain_only_the_very_issuers_of_the_collateral_are_left_out() {
        let parts = |chain, issuers| before_issuers(chain, &collateral(issuers));
        assert_eq!(parts(b"leaf\nca root\n\0", "ca root\n"), Some((&b"leaf\n"[..], &b"\n\0"[..])));
        assert_eq!(parts(b"leaf\nca root", "ca root"), Some((&b"leaf\n"[..], &b""[..])));
        assert_eq!(parts(b"leaf\nca r00t", "ca root"), None);
        assert_eq!(parts(b"leaf\nca root more", "ca root"), None);
        assert_eq!(parts(b"leaf\n", ""), None);
        assert_eq!(parts(b"\0\n", "ca root"), None);
        assert_eq!(parts(b"", ""), None);
    }
}
