//! The proof of what is at the far end.

use evidence::Appraised;
use evidence::gpu::AppraisedGpus;
use protocol::channel::{ApplicationKeys, Part};
use protocol::evidence::Evidence;
use std::sync::Arc;

/// What a peer was proved to be, and until when. Made by [`crate::Verifier::judge`] alone; clones share it.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    appraised: Appraised,
    part: Part,
    keys: ApplicationKeys,
    release: Option<[u8; 32]>,
    gpu: Option<AppraisedGpus>,
    /// Kept so that it can be held against a later trust; the logs, which are long, are not.
    quote: Box<[u8]>,
    report_data: [u8; 64],
    static_config: Box<[u8]>,
}

impl Peer {
    pub(crate) fn new(
        appraised: Appraised,
        part: Part,
        keys: ApplicationKeys,
        release: Option<[u8; 32]>,
        gpu: Option<AppraisedGpus>,
        machine: Evidence,
        report_data: [u8; 64],
    ) -> Self {
        let (quote, static_config) = (machine.quote.into(), machine.static_config.into());
        Peer(Arc::new(Inner { appraised, part, keys, release, gpu, quote, report_data, static_config }))
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

    /// When it was appraised, Unix seconds.
    pub fn at(&self) -> u64 {
        self.0.appraised.verdict().at
    }

    /// When the first thing that the proof rests on expires, Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        let gpu = self.0.gpu.as_ref().and_then(AppraisedGpus::expires);
        self.0.appraised.expires().into_iter().chain(gpu).min()
    }

    pub(crate) fn quote(&self) -> &[u8] {
        &self.0.quote
    }

    pub(crate) fn report_data(&self) -> &[u8; 64] {
        &self.0.report_data
    }
}
