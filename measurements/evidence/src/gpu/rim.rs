//! Reference integrity manifests of NVIDIA's drivers and VBIOSes: a TCG SWID tag in XML with a signature inside.
//!
//! TCG PC Client Reference Integrity Manifest Specification 1.04 (SWID, ISO/IEC 19770-2:2015) and W3C XML Signature 1.1. Of
//! signatures only the form that NVIDIA's manifests have is taken: one enveloped signature over the whole document, canonical
//! XML 1.1 (or 1.0), SHA-384, ECDSA P-384 as `r || s`, certificates in the signature, leaf first.

use super::error::GpuError;
use super::forms::decode_base64;
use super::x509::Chain;
use super::xml::{Element, MAX_XML};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha384};
use std::collections::BTreeMap;

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: [&str; 2] =
    ["http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"];
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
const INPUT: &str = "RIM";
/// More alternatives than any measurement has.
const MAX_ALTERNATIVES: usize = 64;

/// A manifest that was read. Nothing is verified by reading; [`Rim::verify`] does.
#[derive(Debug, Clone)]
pub struct Rim {
    /// Version of the driver or VBIOS, `colloquialVersion`.
    pub version: String,
    /// Chip, as in `GH100`.
    pub product: String,
    /// Names the manifest.
    pub tag_id: String,
    /// Golden values by index, counted from 0; those that the manifest marks as not active are left out.
    pub golden: BTreeMap<u8, Golden>,
    signature: Signature,
}

/// What one measurement may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// Name, as in `HashedMeasurement_32_GSP`.
    pub name: String,
    /// Any of these.
    pub values: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Signature {
    /// Digest that the signature states, and the one of the document.
    stated: Vec<u8>,
    digest: Vec<u8>,
    /// Canonical form of what is signed.
    signed: String,
    value: Vec<u8>,
    chain: Chain,
}

impl Rim {
    /// Reads a manifest; a form of signature other than NVIDIA's is an error here.
    pub fn parse(bytes: &[u8]) -> Result<Self, GpuError> {
        GpuError::bound(INPUT, "bytes", MAX_XML, bytes.len())?;
        let text = std::str::from_utf8(bytes)
            .map_err(|e| GpuError::wrong(INPUT, "text", e.valid_up_to(), "UTF-8", "other bytes"))?;
        let root = Element::parse(text.trim_start_matches('\u{feff}')).map_err(|why| form("XML", why))?;
        read(&root)
    }

    /// Digest, signature and chain of certificates; what does not hold, in words.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let Signature { stated, digest, signed, value, chain } = &self.signature;
        if stated != digest {
            let show = |bytes: &[u8]| STANDARD.encode(bytes);
            return Err(format!(
                "the document was changed: SHA-384 {}, signed {}",
                show(digest),
                show(stated)
            ));
        }
        if !chain.leaf().signed_fixed(signed.as_bytes(), value) {
            return Err(format!("the signature of {} does not hold", chain.leaf().subject()));
        }
        chain.verify()
    }

    /// Its certificates.
    pub(crate) fn chain(&self) -> &Chain {
        &self.signature.chain
    }
}

fn form(what: &'static str, why: impl Into<String>) -> GpuError {
    GpuError::wrong(INPUT, what, 0, "the form of NVIDIA's manifests", why)
}

fn read(root: &Element) -> Result<Rim, GpuError> {
    let swid = |why: String| form("SWID tag", why);
    if !root.is(SWID, "SoftwareIdentity") {
        return Err(swid("another document element".into()));
    }
    let meta = root.only(SWID, "Meta").map_err(swid)?;
    let need = |element: &Element, name: &str| {
        let found = element.attribute("", name).map(str::to_owned);
        found.ok_or_else(|| form("SWID tag", format!("no attribute `{name}`")))
    };
    let version = need(meta, "colloquialVersion")?;
    let product = need(meta, "product")?;
    let tag_id = need(root, "tagId")?;
    let mut golden = BTreeMap::new();
    for resource in root.only(SWID, "Payload").map_err(swid)?.elements() {
        if let Some((index, value)) = resource_of(resource).map_err(swid)?
            && golden.insert(index, value).is_some()
        {
            return Err(swid(format!("measurement {index} stands twice")));
        }
    }
    Ok(Rim { version, product, tag_id, golden, signature: signature(root)? })
}

/// Index and values of an active measurement. What is neither a measurement nor known is refused: it could demand something.
fn resource_of(resource: &Element) -> Result<Option<(u8, Golden)>, String> {
    let attribute = |name: &str| resource.attribute("", name).ok_or(format!("a resource without `{name}`"));
    if !resource.is(SWID, "Resource") || attribute("type")? != "Measurement" {
        return Err("a resource that is no measurement".into());
    }
    let number = |name: &str| {
        let text = attribute(name)?;
        text.parse::<u8>().map_err(|_| format!("`{name}` is {}, expected 0 to 255", text.escape_default()))
    };
    let (index, size) = (number("index")?, usize::from(number("size")?));
    match attribute("active")? {
        "False" => return Ok(None),
        "True" => {}
        other => return Err(format!("measurement {index}: `active` is {}", other.escape_default())),
    }
    let count = usize::from(number("alternatives")?);
    if count == 0 || count > MAX_ALTERNATIVES {
        return Err(format!("measurement {index}: {count} alternatives, expected 1 to {MAX_ALTERNATIVES}"));
    }
    let value = |i: usize| {
        let text = resource.attribute(HASH, &format!("Hash{i}"));
        let bytes = text.and_then(|text| hex::decode(text).ok()).filter(|bytes| bytes.len() == size);
        bytes.ok_or(format!("measurement {index}: no `Hash{i}` of {size} bytes in hex"))
    };
    let values = (0..count).map(value).collect::<Result<Vec<_>, _>>()?;
    Ok(Some((index, Golden { name: attribute("name")?.to_owned(), values })))
}

fn signature(root: &Element) -> Result<Signature, GpuError> {
    let dsig = |why: String| form("signature", why);
    let signature = root.only(DSIG, "Signature").map_err(dsig)?;
    let info = signature.only(DSIG, "SignedInfo").map_err(dsig)?;
    let stated = signed_info(info).map_err(dsig)?;
    let base64 = |element: &Element, what| {
        let text = element.text().ok_or_else(|| form("signature", format!("{what}: no text")))?;
        decode_base64(INPUT, what, &text)
    };
    let value = base64(signature.only(DSIG, "SignatureValue").map_err(dsig)?, "signature value")?;
    let keys = signature.only(DSIG, "KeyInfo").and_then(|keys| keys.only(DSIG, "X509Data")).map_err(dsig)?;
    let mut ders = Vec::new();
    for certificate in keys.elements() {
        if !certificate.is(DSIG, "X509Certificate") {
            return Err(dsig("something beside certificates in `X509Data`".into()));
        }
        ders.push(base64(certificate, "certificate")?);
    }
    Ok(Signature {
        stated: decode_base64(INPUT, "digest", &stated)?,
        digest: Sha384::digest(root.canonical_without(signature)).to_vec(),
        signed: Element::canonical_inner(&[root, signature, info]),
        value,
        chain: Chain::parse("RIM certificates", &ders)?,
    })
}

/// Checks every algorithm that the signature names, and returns the digest of the document that it states.
fn signed_info(info: &Element) -> Result<String, String> {
    let algorithm = |element: &Element, wanted: &[&str]| {
        let found = element.attribute("", "Algorithm").unwrap_or_default();
        match wanted.contains(&found) && element.elements().next().is_none() {
            true => Ok(()),
            false => Err(format!("algorithm {}, expected {}", found.escape_default(), wanted[0])),
        }
    };
    algorithm(info.only(DSIG, "CanonicalizationMethod")?, &C14N)?;
    algorithm(info.only(DSIG, "SignatureMethod")?, &[ECDSA_SHA384])?;
    let reference = info.only(DSIG, "Reference")?;
    if reference.attribute("", "URI") != Some("") {
        return Err("a reference to something other than the whole document".into());
    }
    let transforms: Vec<&Element> = reference.only(DSIG, "Transforms")?.elements().collect();
    let [enveloped, canonical] = transforms[..] else {
        return Err(format!("{} transforms, expected 2", transforms.len()));
    };
    if !enveloped.is(DSIG, "Transform") || !canonical.is(DSIG, "Transform") {
        return Err("something that is no transform".into());
    }
    algorithm(enveloped, &[ENVELOPED])?;
    algorithm(canonical, &C14N)?;
    algorithm(reference.only(DSIG, "DigestMethod")?, &[SHA384])?;
    reference.only(DSIG, "DigestValue")?.text().ok_or("a digest that is no text".into())
}
