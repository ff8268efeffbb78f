//! Where two fields of a TDX quote lie (Intel TDX DCAP Quoting Library API, quote formats 4 and 5).
//!
//! ```text
//! v4: header 48 | TD report body 584
//! v5: header 48 | body type u16 (2 = TDX 1.0, 3 = TDX 1.5) | body size u32 | body 584 or 648
//! body: ... 184 MRCONFIGID[48] ... 520 REPORTDATA[64]
//! ```
//! Nothing is verified here: an attester looks at its own quote to notice a wrong machine early.

use std::ops::Range;

const HEADER: usize = 48;
const V5_DESCRIPTOR: usize = 6;
const MRCONFIGID: Range<usize> = 184..232;
const REPORT_DATA: Range<usize> = 520..584;
/// `tee_type` of a TDX quote.
const TDX: u32 = 0x81;

/// Why bytes are not a TDX quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "quote of {length} bytes: {field}: expected {expected}, found {found}; is the provider a TDX platform?"
)]
pub struct NotAQuote {
    /// Length of the bytes.
    pub length: usize,
    /// Which field.
    pub field: &'static str,
    /// What it must be.
    pub expected: &'static str,
    /// What it is.
    pub found: String,
}

/// The MRCONFIGID that the platform reports for this machine.
pub fn mrconfigid(quote: &[u8]) -> Result<[u8; 48], NotAQuote> {
    field(quote, MRCONFIGID)
}

/// The report data that the quote was made over.
pub fn report_data(quote: &[u8]) -> Result<[u8; 64], NotAQuote> {
    field(quote, REPORT_DATA)
}

fn field<const N: usize>(quote: &[u8], at: Range<usize>) -> Result<[u8; N], NotAQuote> {
    let wrong = |field, expected, found| NotAQuote { length: quote.len(), field, expected, found };
    let short = || wrong("length", "a header and a TD report body", quote.len().to_string());
    let header: &[u8; HEADER] = quote.first_chunk().ok_or_else(short)?;
    let tee = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if tee != TDX {
        return Err(wrong("TEE type", "0x81 (TDX)", format!("{tee:#x}")));
    }
    let start = match u16::from_le_bytes([header[0], header[1]]) {
        4 => HEADER,
        5 => HEADER + V5_DESCRIPTOR,
        other => return Err(wrong("version", "4 or 5", other.to_string())),
    };
    // The whole body must be there, even for a field in its middle.
    let body = quote.get(start..start + REPORT_DATA.end).ok_or_else(short)?;
    body[at].try_into().map_err(|_| short())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Just enough of a quote to carry two fields.
    pub(crate) fn sample(version: u16, report_data: &[u8]) -> Vec<u8> {
        let mut quote = vec![0u8; HEADER + if version == 5 { V5_DESCRIPTOR } else { 0 }];
        quote[..2].copy_from_slice(&version.to_le_bytes());
        quote[4] = 0x81;
        let mut body = vec![0u8; 584];
        body[MRCONFIGID].fill(0xc0);
        body[REPORT_DATA].copy_from_slice(report_data);
        quote.extend(body);
        quote
    }

    #[test]
    fn both_versions_show_their_fields() {
        for version in [4, 5] {
            let quote = sample(version, &[7; 64]);
            assert_eq!(mrconfigid(&quote).unwrap(), [0xc0; 48]);
            assert_eq!(report_data(&quote).unwrap(), [7; 64]);
        }
    }

    #[test]
    fn other_tees_versions_and_cut_quotes_are_refused() {
        let good = sample(4, &[7; 64]);
        for end in 0..good.len() {
            assert_eq!(mrconfigid(&good[..end]).unwrap_err().field, "length");
        }
        let mut sgx = good.clone();
        sgx[4] = 0;
        assert_eq!(mrconfigid(&sgx).unwrap_err().field, "TEE type");
        assert_eq!(mrconfigid(&sample(3, &[7; 64])).unwrap_err().field, "version");
    }

    #[test]
    fn real_quotes_show_the_fields_that_others_read_there() {
        let vectors =
            std::env::var_os("CHRYSALIS_VECTORS").map(std::path::PathBuf::from).unwrap_or_else(|| {
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors")
            });
        let Ok(quote) = std::fs::read(vectors.join("quotes/cocoon_v4.bin")) else {
            eprintln!("skipped: no quotes/cocoon_v4.bin in {}", vectors.display());
            return;
        };
        assert_eq!(report_data(&quote).unwrap()[..], quote[568..632]);
        assert_eq!(mrconfigid(&quote).unwrap()[..], quote[232..280]);
    }

    proptest! {
        #[test]
        fn hostile_quotes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = mrconfigid(&bytes);
            let _ = report_data(&[sample(5, &[0; 64])[..50].to_vec(), bytes].concat());
        }
    }
}
