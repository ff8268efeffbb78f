//! The TD report body: what the TDX module says of a trust domain.
//!
//! Layout: Intel TDX DCAP Quoting Library API, appendix A.3.2 (TD quote body of version 4, 584 bytes) and A.4
//! (version 5: the same for TDX 1.0, 64 bytes more for TDX 1.5, 885 bytes in all for TDX 1.5 extended).
//! Bits: Intel TDX Module ABI specification, ATTRIBUTES and XFAM.

use crate::QuoteError;
use crate::bytes::{Hex, Reader};
use measure::{Digest384, Registers};
use serde::Serialize;

/// Bytes of the TDX 1.0 body.
pub const TD10_LEN: usize = 584;
/// Bytes of the TDX 1.5 body.
pub const TD15_LEN: usize = 648;
/// Bytes of the TDX 1.5 extended body.
pub const TD15_EX_LEN: usize = 885;

/// The fields that every TDX version has, in the order of the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TdReport {
    /// Security version numbers of the TDX module (bytes 0 and 1) and of its loader.
    pub tee_tcb_svn: Hex<16>,
    /// Measurement of the TDX module.
    pub mrseam: Digest384,
    /// Signer of the TDX module; zeros mean Intel.
    pub mrsignerseam: Digest384,
    /// Attributes of the TDX module; zeros for a production module.
    pub seam_attributes: Hex<8>,
    /// ATTRIBUTES of the TD, little-endian; see [`attributes`].
    pub td_attributes: Hex<8>,
    /// Extended features that the TD may use, little-endian, bits as in XCR0 and IA32_XSS.
    pub xfam: Hex<8>,
    /// Measurement of the TD's initial memory.
    pub mrtd: Digest384,
    /// Configuration that the owner set at creation: SHA-384 of the static configuration here.
    pub mrconfigid: Digest384,
    /// Owner, set at creation.
    pub mrowner: Digest384,
    /// Owner's configuration, set at creation.
    pub mrownerconfig: Digest384,
    /// Firmware's configuration.
    pub rtmr0: Digest384,
    /// Boot loader and kernel.
    pub rtmr1: Digest384,
    /// Command line and initrd.
    pub rtmr2: Digest384,
    /// Run time.
    pub rtmr3: Digest384,
    /// 64 bytes that the TD chose.
    pub report_data: Hex<64>,
    /// What TDX 1.5 adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v15: Option<V15>,
}

/// What a TDX 1.5 body adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct V15 {
    /// Security version numbers now, after a TD-preserving update of the TDX module.
    pub tee_tcb_svn2: Hex<16>,
    /// Measurement of the service TDs bound to this TD; zeros when there are none.
    pub mrservicetd: Digest384,
    /// What the 1.5 extended body adds (VM index, TD identity, device information, service TD fields), not interpreted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended: Option<Hex<{ TD15_EX_LEN - TD15_LEN }>>,
}

impl TdReport {
    /// Reads a body of exactly 584, 648 or 885 bytes that starts at `offset` of its quote.
    pub(crate) fn read(bytes: &[u8], offset: usize) -> Result<Self, QuoteError> {
        let mut r = Reader::new(bytes, offset);
        let mut report = TdReport {
            tee_tcb_svn: r.hex("TEE_TCB_SVN")?,
            mrseam: r.digest("MRSEAM")?,
            mrsignerseam: r.digest("MRSIGNERSEAM")?,
            seam_attributes: r.hex("SEAMATTRIBUTES")?,
            td_attributes: r.hex("TDATTRIBUTES")?,
            xfam: r.hex("XFAM")?,
            mrtd: r.digest("MRTD")?,
            mrconfigid: r.digest("MRCONFIGID")?,
            mrowner: r.digest("MROWNER")?,
            mrownerconfig: r.digest("MROWNERCONFIG")?,
            rtmr0: r.digest("RTMR0")?,
            rtmr1: r.digest("RTMR1")?,
            rtmr2: r.digest("RTMR2")?,
            rtmr3: r.digest("RTMR3")?,
            report_data: r.hex("REPORTDATA")?,
            v15: None,
        };
        if bytes.len() >= TD15_LEN {
            let (tee_tcb_svn2, mrservicetd) = (r.hex("TEE_TCB_SVN2")?, r.digest("MRSERVICETD")?);
            let extended =
                if bytes.len() == TD15_EX_LEN { Some(r.hex("TDX 1.5 extended fields")?) } else { None };
            report.v15 = Some(V15 { tee_tcb_svn2, mrservicetd, extended });
        }
        r.finish("TD report body")?;
        Ok(report)
    }

    /// The bytes of the body as a quote carries them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TD15_EX_LEN);
        out.extend_from_slice(&self.tee_tcb_svn.0);
        out.extend_from_slice(&self.mrseam.0);
        out.extend_from_slice(&self.mrsignerseam.0);
        for small in [&self.seam_attributes, &self.td_attributes, &self.xfam] {
            out.extend_from_slice(&small.0);
        }
        let owner = [&self.mrtd, &self.mrconfigid, &self.mrowner, &self.mrownerconfig];
        for register in owner.into_iter().chain([&self.rtmr0, &self.rtmr1, &self.rtmr2, &self.rtmr3]) {
            out.extend_from_slice(&register.0);
        }
        out.extend_from_slice(&self.report_data.0);
        if let Some(v15) = &self.v15 {
            out.extend_from_slice(&v15.tee_tcb_svn2.0);
            out.extend_from_slice(&v15.mrservicetd.0);
            out.extend_from_slice(v15.extended.as_ref().map_or(&[], |e| &e.0));
        }
        out
    }

    /// Bytes of the body on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        match &self.v15 {
            None => TD10_LEN,
            Some(v15) if v15.extended.is_some() => TD15_EX_LEN,
            Some(_) => TD15_LEN,
        }
    }

    /// ATTRIBUTES as a number.
    pub fn attributes(&self) -> u64 {
        u64::from_le_bytes(self.td_attributes.0)
    }

    /// XFAM as a number.
    pub fn xfam(&self) -> u64 {
        u64::from_le_bytes(self.xfam.0)
    }

    /// The registers that reference values speak of, as one.
    pub fn registers(&self) -> Registers {
        Registers { mrtd: self.mrtd, rtmr: [self.rtmr0, self.rtmr1, self.rtmr2, self.rtmr3] }
    }
}

/// Name and value of each register, in order.
pub(crate) fn named(registers: &Registers) -> [(&'static str, Digest384); 5] {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = registers.rtmr;
    [("MRTD", registers.mrtd), ("RTMR0", rtmr0), ("RTMR1", rtmr1), ("RTMR2", rtmr2), ("RTMR3", rtmr3)]
}

/// Bits of ATTRIBUTES (Intel TDX Module ABI specification, TD ATTRIBUTES definition).
pub mod attributes {
    /// The host may read and change the TD. Never accepted.
    pub const DEBUG: u64 = 1;
    /// Bits 7:0: any of them makes the TD untrusted (TD under debug or profiling).
    pub const TUD: u64 = 0xff;
    /// EPT violations on pending pages don't become #VE: the host can't inject them. Required.
    pub const SEPT_VE_DISABLE: u64 = 1 << 28;
    /// Bits a policy may allow, by the name that it uses for them.
    pub const NAMED: [(&str, u64); 8] = [
        ("icssd", 1 << 16),
        ("servtd-ext", 1 << 17),
        ("lass", 1 << 27),
        ("migratable", 1 << 29),
        ("pks", 1 << 30),
        ("kl", 1 << 31),
        ("tpa", 1 << 62),
        ("perfmon", 1 << 63),
    ];
}

/// Bits of XFAM: x87 and SSE, without which the TDX module creates no TD.
pub const XFAM_FIXED1: u64 = 0x3;
/// Bits of XFAM that the TDX module defines: x87, SSE, AVX, AVX-512, PT, PKRU, CET, ULI, LBR and AMX.
pub const XFAM_DEFINED: u64 = 0x6_dbe7;
