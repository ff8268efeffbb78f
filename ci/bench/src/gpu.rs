//! The appraisal of a GPU's report, beside the signatures of its certificate chain alone.
//!
//! The peer checks every link of the very chain with the same library and does nothing else: no reading of certificates, no
//! names, no report. Its root is taken on trust, as the pinned one is.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use evidence::gpu::{GpuInputs, verify_gpus};
use ring::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use simulator::gpu::GpuMachine;
use std::time::Instant;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Header, Reader, SliceReader};

/// Times its peer that an appraisal may take.
const LIMIT: f64 = 3.0;
/// Samples of each.
const ROUNDS: usize = 31;

/// One link: the issuer's key, what it signed, and the signature.
struct Link {
    key: Vec<u8>,
    body: Vec<u8>,
    signature: Vec<u8>,
}

/// Appraisals without manifests, taken in turns with the peer.
pub fn measure() -> Result<Number> {
    let case = GpuMachine::Hopper(1).case().context("no simulated GPU can be made")?;
    let policy = case.policy()?;
    let inputs = GpuInputs { driver_rims: &[], vbios_rims: &[], ocsp: &[], ..case.inputs(&policy) };
    let links = links(&case.devices[0].chain)?;
    let (mut whole, mut chain) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let verdict = verify_gpus(&inputs);
        whole.push(milliseconds(began));
        ensure!(verdict.accepted, "a good simulated GPU was refused: report this as a defect\n{verdict}");
        let began = Instant::now();
        let good = links.iter().all(Link::holds);
        chain.push(milliseconds(began));
        ensure!(good, "a good simulated chain does not hold: report this as a defect");
    }
    let words = format!("its certificate chain alone, {} signatures", links.len());
    Ok(Number::new("GPU report", Unit::Milliseconds, &whole)
        .limit(Limit::TimesPeer(LIMIT))
        .beside(words, &chain)
        .covers(format!(
            "report and chain read and verified, every check but manifests and OCSP; {} signatures",
            links.len() + 1
        )))
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn links(chain: &[Vec<u8>]) -> Result<Vec<Link>> {
    let read = |der: &Vec<u8>| Certificate::from_der(der).context("a simulated certificate can't be read");
    let certificates = chain.iter().map(read).collect::<Result<Vec<_>>>()?;
    let link = |(pair, der): (&[Certificate], &Vec<u8>)| {
        let key = pair[1].tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes().to_vec();
        let body = signed_part(der).context("a simulated certificate can't be taken apart")?;
        Ok(Link { key, body, signature: pair[0].signature().raw_bytes().to_vec() })
    };
    certificates.windows(2).zip(chain).map(link).collect()
}

/// The first element of the outermost sequence, as it stands.
fn signed_part(der: &[u8]) -> x509_cert::der::Result<Vec<u8>> {
    let mut outer = SliceReader::new(der)?;
    Header::decode(&mut outer)?;
    Ok(outer.tlv_bytes()?.to_vec())
}

impl Link {
    fn holds(&self) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, &self.key).verify(&self.body, &self.signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_report_and_its_chain_can_be_measured() {
        let number = measure().unwrap();
        println!("{}", number.verdict());
    }
}
