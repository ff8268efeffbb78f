//! A rebuilder's statement: "I built it, and this is what it measures". An in-toto statement in a DSSE envelope.
//!
//! ```text
//! {"payload": base64, "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": hex, "sig": base64}]}
//! payload: {"_type": "https://in-toto.io/Statement/v1", "predicate": {"rebuilt": time, "release": "worker-0.1.0",
//!           "schema": 1}, "predicateType": "urn:chrysalis:rebuild:1",
//!           "subject": [{"digest": {"sha256": hex}, "name": "worker-0.1.0.measurements.json"}]}
//! signed:  "DSSEv1" SP len(payloadType) SP payloadType SP len(payload) SP payload
//! ```
//! Formats: in-toto Attestation Framework, Statement v1; Dead Simple Signing Envelope v1.0.2. One subject: the
//! measurements name every artifact by hash themselves.

use crate::error::ReleaseError;
use crate::json::Value;
use crate::key::{PublicKey, SigningKey};
use crate::measurements::SCHEMA;
use crate::name;
use crate::tuf::role::instant;
use crate::version::ReleaseId;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use evidence::show_time;
use measure::Digest256;
use serde::{Deserialize, Serialize};

/// Most bytes that are read.
pub const MAX_STATEMENT: usize = 16 * 1024;
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "urn:chrysalis:rebuild:1";
/// Digits of the key's id in the statement's file name.
pub(crate) const NAME_DIGITS: usize = 16;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeJson {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<SignatureJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureJson {
    keyid: String,
    sig: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementJson {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<SubjectJson>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: PredicateJson,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectJson {
    name: String,
    digest: DigestJson,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestJson {
    sha256: Digest256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PredicateJson {
    schema: u32,
    release: String,
    rebuilt: String,
}

/// A statement whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    by: PublicKey,
    release: ReleaseId,
    measurements: Digest256,
    rebuilt: u64,
}

impl Statement {
    /// Verifies a statement of one of these rebuilders.
    pub fn verify(what: &str, bytes: &[u8], rebuilders: &[PublicKey]) -> Result<Self, ReleaseError> {
        let envelope: EnvelopeJson = Value::parse(what, bytes, MAX_STATEMENT)?.read(what)?;
        let bad =
            |field: &str, found: &str, expected: &str| ReleaseError::value(what, field, found, expected);
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(bad("payloadType", &envelope.payload_type, PAYLOAD_TYPE));
        }
        let [SignatureJson { keyid, sig }] = &envelope.signatures[..] else {
            return Err(bad("signatures", &envelope.signatures.len().to_string(), "1: one file a rebuilder"));
        };
        let by = rebuilders.iter().find(|key| key.id().to_string() == *keyid);
        let by = *by.ok_or_else(|| bad("keyid", keyid, "a rebuilder that the settings name"))?;
        let decode = |field: &str, text: &str| {
            BASE64_STANDARD.decode(text).map_err(|e| bad(field, &e.to_string(), "base64"))
        };
        let payload = decode("payload", &envelope.payload)?;
        if !by.verifies(&preauthenticated(&payload), &decode("sig", sig)?) {
            return Err(bad("signature", "wrong", "that of the key it names"));
        }
        Self::read(what, &payload, by)
    }

    fn read(what: &str, payload: &[u8], by: PublicKey) -> Result<Self, ReleaseError> {
        let statement: StatementJson = Value::parse(what, payload, MAX_STATEMENT)?.read(what)?;
        let bad =
            |field: &str, found: &str, expected: &str| ReleaseError::value(what, field, found, expected);
        for (field, found, expected) in
            [("_type", &statement.kind, STATEMENT), ("predicateType", &statement.predicate_type, PREDICATE)]
        {
            if found != expected {
                return Err(bad(field, found, expected));
            }
        }
        if statement.predicate.schema != SCHEMA {
            return Err(bad("schema", &statement.predicate.schema.to_string(), "1"));
        }
        let release: ReleaseId =
            statement.predicate.release.parse().map_err(|why: String| bad("release", &why, "a release"))?;
        let wanted = release.target(name::MEASUREMENTS);
        match &statement.subject[..] {
            [subject] if subject.name == wanted => Ok(Statement {
                by,
                release,
                measurements: subject.digest.sha256,
                rebuilt: instant(what, "rebuilt", &statement.predicate.rebuilt)?,
            }),
            _ => Err(bad("subject", "another", &format!("one, {wanted}"))),
        }
    }

    /// Makes the statement's file: its name as a target, and its bytes.
    pub fn sign(
        release: &ReleaseId,
        measurements: Digest256,
        rebuilt: u64,
        key: &SigningKey,
    ) -> Result<(String, Vec<u8>), ReleaseError> {
        let statement = StatementJson {
            kind: STATEMENT.into(),
            subject: vec![SubjectJson {
                name: release.target(name::MEASUREMENTS),
                digest: DigestJson { sha256: measurements },
            }],
            predicate_type: PREDICATE.into(),
            predicate: PredicateJson {
                schema: SCHEMA,
                release: release.to_string(),
                rebuilt: show_time(rebuilt),
            },
        };
        let payload = Value::of("statement", &statement)?.canonical();
        let sig = BASE64_STANDARD.encode(key.sign(&preauthenticated(&payload)));
        let keyid = key.public().id().to_string();
        let target = crate::accept::statement_target(release, &key.public());
        let envelope = EnvelopeJson {
            payload: BASE64_STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![SignatureJson { keyid, sig }],
        };
        Ok((target, Value::of("statement", &envelope)?.canonical()))
    }

    /// Whose it is.
    pub fn by(&self) -> PublicKey {
        self.by
    }

    /// Of which release it speaks.
    pub fn release(&self) -> &ReleaseId {
        &self.release
    }

    /// SHA-256 of the measurements that the rebuild came to.
    pub fn measurements(&self) -> Digest256 {
        self.measurements
    }

    /// When, as the rebuilder says; nothing is decided by it. Unix seconds.
    pub fn rebuilt(&self) -> u64 {
        self.rebuilt
    }
}

/// DSSE's pre-authentication encoding.
fn preauthenticated(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
