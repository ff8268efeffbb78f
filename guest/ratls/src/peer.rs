//! The proof of what is at the far end.

use crate::trust::Trust;
use evidence::Appraised;
use evidence::gpu::AppraisedGpus;
use protocol::channel::{ApplicationKeys, Part};
use sha2::{Digest, Sha256};
use std::sync::{Arc, Weak};

/// What a peer was proved to be, and until when. Made by [`crate::Verifier::judge`] alone; clones share it.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Proof>);

/// What the judge found.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) appraised: Appraised,
    pub(crate) part: Part,
    pub(crate) keys: ApplicationKeys,
    pub(crate) release: Option<[u8; 32]>,
    pub(crate) gpu: Option<AppraisedGpus>,
    /// Kept so that it can be held against a later trust; the logs, which are long, are not.
    pub(crate) quote: Box<[u8]>,
    pub(crate) report_data: [u8; 64],
    pub(crate) static_config: Box<[u8]>,
    /// Names the trust without keeping it: one that was replaced may go.
    pub(crate) trust: Weak<Trust>,
}

impl Peer {
    pub(crate) fn new(proof: Proof) -> Self {
        Peer(Arc::new(proof))
    }

    /// The machine: verdict, registers, release.
    pub fn appraised(&self) -> &Appraised {
        &self.0.appraised
    }

    /// What it is.
    pub fn part(&self) -> Part {
        self.0.part
    }

    /// The application keys that it named as its own.
    pub fn keys(&self) -> &ApplicationKeys {
        &self.0.keys
    }

    /// Digest of the release that its registers are of ([`evidence::Release::digest`]).
    pub fn release(&self) -> Option<[u8; 32]> {
        self.0.release
    }

    /// Its GPUs, where evidence of them was demanded.
    pub fn gpu(&self) -> Option<&AppraisedGpus> {
        self.0.gpu.as_ref()
    }

    /// The bytes that it was configured with, and that its MRCONFIGID commits to.
    pub fn static_config(&self) -> &[u8] {
        &self.0.static_config
    }

    /// SHA-256 of its quote, for whoever has to name the evidence later.
    pub fn evidence(&self) -> [u8; 32] {
        Sha256::digest(&self.0.quote).into()
    }

    /// When it was appraised, Unix seconds.
    pub fn at(&self) -> u64 {
        self.0.appraised.verdict().at
    }

    /// When the first thing that the proof rests on expires, Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        let gpu = self.0.gpu.as_ref().and_then(AppraisedGpus::expires);
        self.0.appraised.expires().into_iter().chain(gpu).min()
    }

    /// Whether it was judged under this very trust.
    pub(crate) fn judged_under(&self, trust: &Arc<Trust>) -> bool {
        std::ptr::eq(self.0.trust.as_ptr(), Arc::as_ptr(trust))
    }

    pub(crate) fn quote(&self) -> &[u8] {
        &self.0.quote
    }

    pub(crate) fn report_data(&self) -> &[u8; 64] {
        &self.0.report_data
    }
}
