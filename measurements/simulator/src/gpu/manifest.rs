//! Simulated manifests of drivers and VBIOSes, signed as NVIDIA's are.
//!
//! The document is written in canonical form first, and so digested; what is handed out has the empty elements folded, as
//! NVIDIA's have, so that the reader must bring it into canonical form itself.

use super::pki::Entity;
use crate::SimulatorError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha384};
use std::collections::BTreeMap;
use std::sync::Arc;

const ROOT: &str = "xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
                    xmlns:ns0=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
                    xmlns:ns2=\"http://www.w3.org/2001/04/xmlenc#sha384\"";
const ROOT_WITH_DS: &str = "xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
                            xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\" \
                            xmlns:ns0=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
                            xmlns:ns2=\"http://www.w3.org/2001/04/xmlenc#sha384\"";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";

/// What a manifest says.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) version: String,
    pub(crate) product: &'static str,
    /// Alternatives by index, counted from 0.
    pub(crate) golden: BTreeMap<u8, Vec<[u8; 48]>>,
}

/// The manifest as XML, signed by the first of the chain.
pub(crate) fn sign(spec: &Spec, chain: &[Arc<Entity>]) -> Result<Vec<u8>, SimulatorError> {
    let canonical = document(spec);
    let digest = STANDARD.encode(Sha384::digest(&canonical));
    let info = signed_info(&digest);
    let signed = info.replacen("<ds:SignedInfo>", &format!("<ds:SignedInfo {ROOT_WITH_DS}>"), 1);
    let signature = match chain.first() {
        Some(signer) => STANDARD.encode(signer.sign_fixed(signed.as_bytes())?),
        None => String::new(),
    };
    let certificate = |entity: &Arc<Entity>| {
        let text = STANDARD.encode(&entity.certificate);
        format!("<ds:X509Certificate>{text}\n</ds:X509Certificate>")
    };
    let certificates: String = chain.iter().map(certificate).collect();
    let block = format!(
        "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\">{info}\
         <ds:SignatureValue>{signature}</ds:SignatureValue>\
         <ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>"
    );
    let folded = canonical.replace("></ns0:Resource>", "/>").replace("></ns0:Meta>", "/>");
    Ok(folded.replace("</SoftwareIdentity>", &block).into_bytes())
}

fn document(spec: &Spec) -> String {
    let Spec { version, product, golden } = spec;
    let resource = |(index, values): (&u8, &Vec<[u8; 48]>)| {
        let hash = |(i, value): (usize, &[u8; 48])| format!(" ns2:Hash{i}=\"{}\"", hex::encode(value));
        let hashes: String = values.iter().enumerate().map(hash).collect();
        let count = values.len();
        format!(
            "<ns0:Resource active=\"True\" alternatives=\"{count}\" index=\"{index}\" name=\"Measurement_{index}\" \
             size=\"48\" type=\"Measurement\"{hashes}></ns0:Resource>\n"
        )
    };
    let resources: String = golden.iter().map(resource).collect();
    format!(
        "<SoftwareIdentity {ROOT} name=\"{product}\" tagId=\"simulated-{version}\" version=\"1.0\">\n\
         <ns0:Meta colloquialVersion=\"{version}\" product=\"{product}\"></ns0:Meta>\n\
         <ns0:Payload>\n{resources}</ns0:Payload>\n</SoftwareIdentity>"
    )
}

fn signed_info(digest: &str) -> String {
    let method = |name: &str, algorithm: &str| format!("<ds:{name} Algorithm=\"{algorithm}\"></ds:{name}>");
    let transforms = [
        method("Transform", "http://www.w3.org/2000/09/xmldsig#enveloped-signature"),
        method("Transform", C14N),
    ];
    [
        "<ds:SignedInfo>".into(),
        method("CanonicalizationMethod", C14N),
        method("SignatureMethod", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"),
        "<ds:Reference URI=\"\"><ds:Transforms>".into(),
        transforms.concat(),
        "</ds:Transforms>".into(),
        method("DigestMethod", "http://www.w3.org/2001/04/xmldsig-more#sha384"),
        format!("<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"),
    ]
    .concat()
}
