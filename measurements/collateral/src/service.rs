//! The service that publishes collateral, over HTTP.
//!
//! ```text
//! GET {service}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der   header SGX-PCK-CRL-Issuer-Chain
//! GET {service}/tdx/certification/v4/tcb?fmspc={fmspc}             header TCB-Info-Issuer-Chain
//! GET {service}/tdx/certification/v4/qe/identity                   header SGX-Enclave-Identity-Issuer-Chain
//! GET {root-crl}, or {service}/sgx/certification/v4/rootcacrl      (a PCCS has it, Intel's service has not)
//! ```
//! Every answer is bounded in time and bytes; an attempt that may do better later is made again, with growing waits.

use crate::parse;
use dcap_qvl::QuoteCollateralV3;
use evidence::{Collateral, PlatformId};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Most bytes of a document that are read; Intel's TCB info is about 12 KiB.
const MAX_DOCUMENT: u64 = 256 * 1024;
/// Most bytes of a CRL, in hex; Intel's are a few KiB.
const MAX_CRL: u64 = 512 * 1024;
/// Most bytes of all headers of an answer; a chain of certificates takes about 5 KiB.
const MAX_HEADERS: usize = 64 * 1024;

/// The part that Intel's service does not have.
const ROOT_CRL: &str = "root CA CRL";

/// Which service, and how patient to be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Base URL of a PCCS, or of Intel's service.
    pub service: String,
    /// Where the root's CRL is, for a service that has none itself.
    pub root_crl: Option<String>,
    /// Certificates (PEM) to trust for TLS instead of the public ones, for a PCCS with a certificate of its own.
    pub tls_roots: Option<String>,
    /// Longest time that one answer may take.
    #[serde(default = "ten")]
    pub timeout_seconds: u64,
    /// How often to try, in all.
    #[serde(default = "three")]
    pub attempts: u32,
    /// Wait before the second attempt, doubled for each further one.
    #[serde(default = "half_a_second")]
    pub wait_milliseconds: u64,
}

fn ten() -> u64 {
    10
}

fn three() -> u32 {
    3
}

fn half_a_second() -> u64 {
    500
}

impl Settings {
    /// This service, with the usual patience.
    pub fn of(service: impl Into<String>) -> Self {
        Settings {
            service: service.into(),
            root_crl: None,
            tls_roots: None,
            timeout_seconds: ten(),
            attempts: three(),
            wait_milliseconds: half_a_second(),
        }
    }
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A URL of another scheme.
    #[error("collateral service: {field} is `{found}`, expected a URL that starts with https:// or http://")]
    Url {
        /// Which.
        field: &'static str,
        /// What stands there.
        found: String,
    },
    /// No certificate in the roots for TLS.
    #[error("collateral service: tls-roots: {0}; expected PEM certificates")]
    TlsRoots(String),
}

/// Why nothing was fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No answer, or one that took too long or was too large.
    #[error("{what} from {url}: {why}; is the service up, and is this its address?")]
    Transport {
        /// Which part.
        what: &'static str,
        /// From where.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// An answer that is no success.
    #[error("{what} from {url}: HTTP {status}, expected 200{}", hint(.what, *.status))]
    Status {
        /// Which part.
        what: &'static str,
        /// From where.
        url: String,
        /// What it said.
        status: u16,
    },
    /// An answer that can't be read.
    #[error("{what}: {why}; is this a service of Intel's form, version 4?")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

fn hint(what: &str, status: u16) -> &'static str {
    match (what, status) {
        (ROOT_CRL, 404) => "; this service has none (Intel's own has not): say where it is with root-crl",
        (_, 404) => "; the service knows no such platform",
        _ => "",
    }
}

impl FetchError {
    /// Whether another attempt may do better.
    fn is_passing(&self) -> bool {
        match self {
            FetchError::Transport { .. } => true,
            FetchError::Status { status, .. } => *status >= 500 || *status == 429,
            FetchError::Malformed { .. } => false,
        }
    }
}

/// A service to fetch from. It blocks the calling thread.
#[derive(Debug, Clone)]
pub struct Service {
    agent: ureq::Agent,
    settings: Settings,
}

pub(crate) struct Answer {
    headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Service {
    /// Checks the settings; nothing is asked yet.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        url("service", &settings.service)?;
        settings.root_crl.as_deref().map_or(Ok(()), |crl| url("root-crl", crl))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
        if let Some(pem) = &settings.tls_roots {
            tls = tls.root_certs(tls_roots(pem)?);
        }
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(MAX_HEADERS)
            .timeout_global(Some(Duration::from_secs(settings.timeout_seconds)))
            .proxy(None);
        Ok(Service { agent: config.build().new_agent(), settings })
    }

    /// Everything that is published about these platforms. Nothing of it is verified.
    pub fn fetch(&self, platform: &PlatformId) -> Result<Collateral, FetchError> {
        let base = self.settings.service.trim_end_matches('/');
        let (sgx, tdx) = (format!("{base}/sgx/certification/v4"), format!("{base}/tdx/certification/v4"));
        let pck_crl = format!("{sgx}/pckcrl?ca={}&encoding=der", platform.ca());
        let pck_crl = self.get("PCK CRL", &pck_crl, MAX_CRL)?;
        let tcb = self.get("TCB info", &format!("{tdx}/tcb?fmspc={}", platform.fmspc), MAX_DOCUMENT)?;
        let qe = self.get("QE identity", &format!("{tdx}/qe/identity"), MAX_DOCUMENT)?;
        let root_crl = self.settings.root_crl.clone().unwrap_or_else(|| format!("{sgx}/rootcacrl"));
        let root_crl = self.get(ROOT_CRL, &root_crl, MAX_CRL)?;
        let tcb_info = parse::tcb_info("TCB info", &tcb.body)?;
        let qe_identity = parse::qe_identity("QE identity", &qe.body)?;
        Ok(Collateral::from(QuoteCollateralV3 {
            pck_crl_issuer_chain: pck_crl.chain("PCK CRL chain", &["SGX-PCK-CRL-Issuer-Chain"])?,
            root_ca_crl: parse::crl(ROOT_CRL, &root_crl.body)?,
            pck_crl: parse::crl("PCK CRL", &pck_crl.body)?,
            tcb_info_issuer_chain: tcb
                .chain("TCB info chain", &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"])?,
            tcb_info: tcb_info.text,
            tcb_info_signature: tcb_info.signature,
            qe_identity_issuer_chain: qe
                .chain("QE identity chain", &["SGX-Enclave-Identity-Issuer-Chain"])?,
            qe_identity: qe_identity.text,
            qe_identity_signature: qe_identity.signature,
            pck_certificate_chain: None,
        }))
    }

    fn get(&self, what: &'static str, url: &str, max: u64) -> Result<Answer, FetchError> {
        self.ask(what, url, None, max)
    }

    /// GET, or POST of an OCSP request.
    pub(crate) fn ask(
        &self,
        what: &'static str,
        url: &str,
        request: Option<&[u8]>,
        max: u64,
    ) -> Result<Answer, FetchError> {
        let mut attempt = 1;
        loop {
            match self.ask_once(what, url, request, max) {
                Err(error) if error.is_passing() && attempt < self.settings.attempts => {
                    let wait = self.settings.wait_milliseconds << (attempt - 1).min(6);
                    std::thread::sleep(Duration::from_millis(wait));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn ask_once(
        &self,
        what: &'static str,
        url: &str,
        request: Option<&[u8]>,
        max: u64,
    ) -> Result<Answer, FetchError> {
        let transport =
            |error: ureq::Error| FetchError::Transport { what, url: url.to_owned(), why: error.to_string() };
        let response = match request {
            None => self.agent.get(url).call(),
            // RFC 6960, appendix A.1.
            Some(der) => self.agent.post(url).content_type("application/ocsp-request").send(der),
        };
        let response = response.map_err(transport)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status { what, url: url.to_owned(), status });
        }
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(max).read_to_vec().map_err(transport)?;
        Ok(Answer { headers: parts.headers, body })
    }
}

impl Answer {
    /// The chain in the first of these headers that is there.
    fn chain(&self, what: &'static str, names: &[&str]) -> Result<String, FetchError> {
        let header = names.iter().find_map(|name| self.headers.get(*name)?.to_str().ok());
        let missing = || FetchError::Malformed { what, why: format!("no header {}", names.join(" or ")) };
        parse::chain(what, header.ok_or_else(missing)?)
    }
}

fn url(field: &'static str, text: &str) -> Result<(), SettingsError> {
    let known =
        ["https://", "http://"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    if known { Ok(()) } else { Err(SettingsError::Url { field, found: text.to_owned() }) }
}

fn tls_roots(pem: &str) -> Result<RootCerts, SettingsError> {
    let certificates: Vec<Certificate<'static>> = ureq::tls::parse_pem(pem.as_bytes())
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(SettingsError::TlsRoots(error.to_string()))),
        })
        .collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err(SettingsError::TlsRoots("no certificate in it".into()));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}
