//! A kit on a web server: plain GETs. Every byte is held against the kit's index, so `http://` is as good as TLS.

use anyhow::{Result, ensure};
use builder::kit::{KitError, Mirror};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::TlsConfig;

/// Longest time for one object; the largest is about 200 MB.
const OBJECT: Duration = Duration::from_secs(3600);
const CONNECT: Duration = Duration::from_secs(30);

/// The server.
pub struct KitServer {
    agent: ureq::Agent,
    base: String,
}

impl KitServer {
    /// `base` is the address of the kit's folder. Nothing is asked yet.
    pub fn new(base: &str) -> Result<Self> {
        ensure!(
            base.starts_with("http://") || base.starts_with("https://"),
            "--kit {base}: expected a folder, or an address that starts with http:// or https://"
        );
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ureq::Agent::config_builder()
            .tls_config(TlsConfig::builder().unversioned_rustls_crypto_provider(provider).build())
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(OBJECT));
        Ok(KitServer { agent: config.build().new_agent(), base: base.trim_end_matches('/').to_owned() })
    }
}

impl Mirror for KitServer {
    fn open(&self, path: &str) -> Result<Box<dyn Read>, KitError> {
        let url = format!("{}/{path}", self.base);
        let refuse = |why: String| KitError::Mirror { url: url.clone(), why };
        let answer = self.agent.get(&url).call().map_err(|error| refuse(error.to_string()))?;
        match answer.status().as_u16() {
            200 => Ok(Box::new(answer.into_body().into_reader())),
            status => Err(refuse(format!("HTTP {status}, expected 200"))),
        }
    }
}
