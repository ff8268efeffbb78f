//! No certificate of the device or of its manifests is revoked.

use super::device::Device;
use super::ocsp::{Answer, OcspResponse};
use super::verdict::{GpuCheckName, NOT_VALIDATED};
use super::x509::{Cert, Chain};

const EXPECTED: &str =
    "a good answer of the responder for every certificate but roots and the device's own leaf";

pub(crate) fn check(device: &mut Device<'_>, chain: &Chain) {
    let context = device.context;
    if context.inputs.ocsp.is_empty() {
        return device.checks.skip(GpuCheckName::Revocation, EXPECTED, "no OCSP responses given");
    }
    device.not_validated.push("OCSP".into());
    // The leaf is issued by the device itself, and no responder knows it.
    let mut pairs: Vec<(&Cert, &Cert)> = pairs(chain).skip(1).collect();
    // A manifest without a good signature is not used, so that nobody need answer about its certificates.
    for manifest in context.manifests.readable().filter(|manifest| manifest.fault.is_none()) {
        pairs.extend(self::pairs(manifest.rim.chain()));
    }
    let mut faults: Vec<String> =
        context.responses.iter().filter_map(|r| r.as_ref().err()).map(ToString::to_string).collect();
    let mut until: Option<u64> = None;
    let readable: Vec<&OcspResponse> = context.responses.iter().filter_map(|r| r.as_ref().ok()).collect();
    for (cert, issuer) in &pairs {
        let answers = readable.iter().filter_map(|response| response.about(cert, issuer, context.inputs.at));
        match answers.min() {
            Some(Answer::Good(end)) => until = Some(until.map_or(end, |until| until.min(end))),
            Some(Answer::Revoked(why) | Answer::Useless(why)) => {
                faults.push(format!("{}: {why}", cert.subject()))
            }
            None => faults.push(format!("{}: no answer about it", cert.subject())),
        }
    }
    let good = faults.is_empty();
    let words =
        if good { format!("{} good answers ({NOT_VALIDATED})", pairs.len()) } else { faults.join("; ") };
    device.judge(GpuCheckName::Revocation, good, EXPECTED, &words, "OCSP responses");
    device.checks.expires(until);
}

/// Each certificate with its issuer.
fn pairs(chain: &Chain) -> impl Iterator<Item = (&Cert, &Cert)> {
    chain.0.windows(2).map(|pair| (&pair[0], &pair[1]))
}
