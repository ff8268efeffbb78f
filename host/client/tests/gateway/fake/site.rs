//! The SIMULATED platform of all fakes, and who verifies it.

use super::{AT, PROXY_CONFIG};
use evidence::{Collateral, Policy, Reference};
use protocol::evidence::EventLog;
use protocol::{AttestError, Attester};
use ratls::{Trust, Verifier};
use simulator::{Guest, Platform};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// A SIMULATED platform, and one guest on it.
pub struct Site {
    pub guest: Arc<Simulated>,
    /// Its trust root, DER.
    pub root: Vec<u8>,
    pub collateral: Collateral,
    pub reference: Reference,
}

/// A guest of that platform, as an attester.
pub struct Simulated(Guest);

impl Attester for Simulated {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.quote(report_data))
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(self.0.event_log())
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.runtime())
    }
}

/// The platform of all fakes of a test binary.
pub fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let platform = Platform::generate(AT).unwrap();
        let guest = Guest::boot(platform.identity().unwrap(), PROXY_CONFIG, &[]).unwrap();
        Site {
            guest: Arc::new(Simulated(guest)),
            root: platform.root_der().unwrap(),
            collateral: platform.collateral().unwrap(),
            reference: simulator::reference().unwrap(),
        }
    })
}

/// What verifies the fakes.
pub fn trust() -> Trust {
    let site = site();
    Trust::new(Policy::simulated(&site.root).unwrap(), site.collateral.clone(), site.reference.clone())
}

pub fn verifier() -> Arc<Verifier> {
    Arc::new(Verifier::fixed(trust(), AT))
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
