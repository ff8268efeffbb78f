//! Compares the configuration that the host handed over with the one that the platform vouches for.

use anyhow::{Context, Result, ensure};
use attest::quote;
use protocol::Attester;
use protocol::config::mrconfigid;

/// Gets a quote and refuses unless its MRCONFIGID is the SHA-384 of these bytes; returns it.
///
/// The quote is not verified here: on a machine that forges quotes to itself nothing could be won. Remote verifiers see
/// the same register, so a host that lies about the configuration to both is caught there.
pub(crate) fn check(attester: &dyn Attester, static_config: &[u8]) -> Result<[u8; 48]> {
    let expected = mrconfigid(static_config);
    let quote = attester.quote(&crate::entropy::fresh()?).context("cannot get a quote of this machine")?;
    let found = quote::mrconfigid(&quote)?;
    ensure!(
        found == expected,
        "static configuration on the handoff disk: expected one whose SHA-384 is this machine's MRCONFIGID {}, \
         found one with {}; start the guest with the MRCONFIGID of the configuration it is handed",
        hex::encode(found),
        hex::encode(expected),
    );
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::AttestError;
    use protocol::evidence::EventLog;

    /// A machine with this MRCONFIGID.
    struct Machine([u8; 48]);

    impl Attester for Machine {
        fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
            let mut quote = vec![0u8; 48 + 584];
            quote[..5].copy_from_slice(&[4, 0, 2, 0, 0x81]);
            quote[48 + 184..][..48].copy_from_slice(&self.0);
            quote[48 + 520..].copy_from_slice(report_data);
            Ok(quote)
        }

        fn event_log(&self) -> Result<EventLog, AttestError> {
            unreachable!("the gate reads no event log")
        }

        fn runtime(&self) -> Result<Vec<u8>, AttestError> {
            unreachable!("the gate makes the record")
        }
    }

    #[test]
    fn the_measured_configuration_passes() {
        assert_eq!(check(&Machine(mrconfigid(b"a")), b"a").unwrap(), mrconfigid(b"a"));
    }

    #[test]
    fn another_configuration_is_refused_with_both_digests() {
        let text = check(&Machine(mrconfigid(b"a")), b"b").unwrap_err().to_string();
        assert!(text.contains(&hex::encode(mrconfigid(b"a"))), "{text}");
        assert!(text.contains(&hex::encode(mrconfigid(b"b"))), "{text}");
    }
}
