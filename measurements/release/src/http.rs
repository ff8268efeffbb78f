//! A publication on a web server: plain GETs, bounded in time and bytes, for each file and for a refresh as a whole.
//!
//! TLS hides what is asked for and authenticates nothing that matters: files are verified whoever sends them. So `http://`
//! is as good. Redirects are not followed and no proxy of the environment is used.

use crate::error::ReleaseError;
use crate::mirror::{Folder, Mirror, MirrorError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::tls::TlsConfig;

/// Most bytes of all headers of an answer.
const MAX_HEADERS: usize = 16 * 1024;

/// How patient to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest time for one file.
    pub file: Duration,
    /// Longest time for a refresh.
    pub refresh: Duration,
    /// Most bytes of a refresh.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { file: Duration::from_secs(10), refresh: Duration::from_secs(60), bytes: 64 * 1024 * 1024 }
    }
}

/// A web server. It blocks the calling thread.
#[derive(Debug)]
pub struct Http {
    agent: ureq::Agent,
    base: String,
    limits: Limits,
    deadline: Instant,
    bytes_left: usize,
}

impl Http {
    /// `base` is the address of the publication's folder. Nothing is asked yet.
    pub fn new(base: &str, limits: Limits) -> Result<Self, MirrorError> {
        let known = base.starts_with("https://") || base.starts_with("http://");
        if !known {
            let why = "expected an address that starts with https:// or http://".to_owned();
            return Err(MirrorError::Unreachable { path: base.to_owned(), why });
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(MAX_HEADERS)
            .proxy(None);
        let base = base.trim_end_matches('/').to_owned();
        let deadline = Instant::now() + limits.refresh;
        Ok(Http { agent: config.build().new_agent(), base, limits, deadline, bytes_left: limits.bytes })
    }

    fn get(&self, url: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        let path = || url.to_owned();
        let budget = |what: String| MirrorError::Budget { path: path(), what };
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(budget(format!("{} seconds", self.limits.refresh.as_secs())));
        }
        let request = self.agent.get(url).config().timeout_global(Some(left.min(self.limits.file))).build();
        let unreachable =
            |error: ureq::Error| MirrorError::Unreachable { path: path(), why: error.to_string() };
        let mut response = request.call().map_err(unreachable)?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            status => return Err(MirrorError::Status { path: path(), status }),
        }
        let allowed = max.min(self.bytes_left);
        // The limit is an error from the first byte beyond it, so one more is let through and looked at.
        match response.body_mut().with_config().limit(allowed as u64 + 1).read_to_vec() {
            Ok(bytes) if bytes.len() <= allowed => Ok(Some(bytes)),
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) if allowed < max => {
                Err(budget(format!("{} bytes", self.limits.bytes)))
            }
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => Err(MirrorError::Endless { path: path(), max }),
            Err(error) => Err(unreachable(error)),
        }
    }
}

/// The mirror that a person names: an address (`http://`, `https://`), or a folder.
pub fn mirror_at(name: &str) -> Result<Box<dyn Mirror>, ReleaseError> {
    if name.contains("://") {
        return Ok(Box::new(Http::new(name, Limits::default())?));
    }
    Ok(Box::new(Folder::new(name)))
}

impl Mirror for Http {
    fn begin(&mut self) {
        self.deadline = Instant::now() + self.limits.refresh;
        self.bytes_left = self.limits.bytes;
    }

    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        let found = self.get(&format!("{}/{path}", self.base), max)?;
        self.bytes_left -= found.as_ref().map_or(0, Vec::len).min(self.bytes_left);
        Ok(found)
    }
}
