//! Which masterchain blocks are believed: signed by two thirds of the validators that the pinned zero state names.
//!
//! ```text
//! pinned zero state --Merkle proof--> validators --signatures--> block 1, 2, .. n       newest seen: never below it again
//! ```
//! Pure: no clock, no network. A server can withhold new blocks but can't invent any, and can't go back behind what it has
//! shown. Whether the newest block is *fresh* is not for this module: see [`crate::Ledger`] about liveness.
//!
//! Absent: following key blocks. On a network whose validators change, blocks after the first change are refused here.

use crate::HashBytes;
use crate::forms::{Bag, SignedBlock};
use crate::ledger::ProvenBlock;
use crate::proof::{self, Header, ProofError};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use tycho_types::models::{
    Block, BlockId, BlockchainConfigParams, CatchainConfig, ShardIdent, ValidatorDescription, ValidatorSet,
};

/// Which network: what a guest carries in its measured configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Configuration parameter 19; part of what every voucher signs.
    pub global_id: i32,
    /// Root hash of the masterchain's zero state.
    pub zero_root: HashBytes,
    /// Hash of the zero state's file.
    pub zero_file: HashBytes,
}

/// A block, or the validators, are not what they have to be. Each of them is a server's fault.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A proof is wrong.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The block is of another network or another chain.
    #[error(
        "masterchain block {seqno}: {what} is {found}, expected {expected}; the server follows another network"
    )]
    Network {
        /// The block's number.
        seqno: u32,
        /// What differs.
        what: &'static str,
        /// What it is.
        found: String,
        /// What the pinned network has.
        expected: String,
    },
    /// Too few validators signed.
    #[error(
        "masterchain block {seqno}: validators of weight {signed} out of {total} signed it, expected more than two thirds"
    )]
    Signatures {
        /// The block's number.
        seqno: u32,
        /// Weight of the valid signatures.
        signed: u64,
        /// Weight of all validators of the session.
        total: u64,
    },
    /// A signature is wrong, doubled, or of nobody known.
    #[error("masterchain block {seqno}: the signature of node {node} is {what}")]
    Signature {
        /// The block's number.
        seqno: u32,
        /// Whose.
        node: HashBytes,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two signed blocks with one number: the chain itself is split, or validators lie. Stop and call a person.
    #[error(
        "ALARM: two signed masterchain blocks with number {0}: the network is forked or its validators are broken"
    )]
    Fork(u32),
    /// The server is behind what was seen already.
    #[error(
        "masterchain block {found} was shown after {seen}; the server is behind, or holds new blocks back"
    )]
    Behind {
        /// Number that was shown.
        found: u32,
        /// Number that was seen before.
        seen: u32,
    },
}

/// The validators, and the newest block that they signed.
#[derive(Debug, Clone)]
pub struct Trust {
    network: Network,
    validators: Option<(ValidatorSet, CatchainConfig)>,
    newest: Option<ProvenBlock>,
}

impl Trust {
    /// Trust in a network's zero state and nothing else yet.
    pub fn new(network: Network) -> Self {
        Trust { network, validators: None, newest: None }
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether the validators are known.
    pub fn knows_validators(&self) -> bool {
        self.validators.is_some()
    }

    /// The newest block that was accepted.
    pub fn newest(&self) -> Option<&ProvenBlock> {
        self.newest.as_ref()
    }

    /// Takes the validators from a proof of the zero state.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn learn_validators(&mut self, zero_state: &Bag) -> Result<(), TrustError> {
        let what = "validators in the zero state";
        let state = proof::open(what, zero_state, &self.network.zero_root)?;
        let cells = |source| ProofError::Cells { what, source };
        let config = BlockchainConfigParams::from_raw(proof::read_config(state).map_err(cells)?);
        let set = config.get_current_validator_set().map_err(cells)?;
        let catchain = config.get_catchain_config().map_err(cells)?;
        self.validators = Some((set, catchain));
        Ok(())
    }

    /// Accepts a block that is signed, and not older than any accepted before. The validators must be known.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn accept(&mut self, block: &SignedBlock) -> Result<ProvenBlock, TrustError> {
        let header = proof::header(&block.header, &block.id)?;
        self.of_this_network(&block.id, &header)?;
        self.signed(block, &header)?;
        if let Some(newest) = &self.newest {
            if newest.seqno() > block.id.seqno {
                return Err(TrustError::Behind { found: block.id.seqno, seen: newest.seqno() });
            }
            if newest.seqno() == block.id.seqno && *newest.id() != block.id {
                return Err(TrustError::Fork(block.id.seqno));
            }
        }
        let proven = ProvenBlock::new(block.id, &header);
        self.newest = Some(proven.clone());
        Ok(proven)
    }

    fn of_this_network(&self, id: &BlockId, header: &Header) -> Result<(), TrustError> {
        let differs = |what, found: String, expected: String| TrustError::Network {
            seqno: id.seqno,
            what,
            found,
            expected,
        };
        if header.global_id != self.network.global_id {
            let (found, expected) = (header.global_id.to_string(), self.network.global_id.to_string());
            return Err(differs("the network's number", found, expected));
        }
        if header.shard != ShardIdent::MASTERCHAIN {
            return Err(differs("the shard", header.shard.to_string(), ShardIdent::MASTERCHAIN.to_string()));
        }
        Ok(())
    }

    /// More than two thirds of the session's weight signed the block.
    fn signed(&self, block: &SignedBlock, header: &Header) -> Result<(), TrustError> {
        let (id, seqno) = (block.id, block.id.seqno);
        let none = TrustError::Signatures { seqno, signed: 0, total: 0 };
        let Some((set, catchain)) = &self.validators else { return Err(none) };
        let session = set.compute_mc_subset(header.catchain_seqno, catchain.shuffle_mc_validators);
        let Some((validators, hash)) = session else { return Err(none) };
        if hash != header.validators_hash {
            let (found, expected) = (format!("{:08x}", header.validators_hash), format!("{hash:08x}"));
            return Err(TrustError::Network { seqno, what: "the validators' hash", found, expected });
        }
        let message = Block::build_data_for_sign(&id);
        let (mut signed, mut seen) = (0u128, HashSet::new());
        for signature in &block.signatures {
            let wrong = |what| TrustError::Signature { seqno, node: signature.node, what };
            let validator = validators.iter().find(|v| short_id(v) == signature.node);
            let validator = validator.ok_or_else(|| wrong("of no validator of this session"))?;
            if !seen.insert(signature.node) {
                return Err(wrong("there twice"));
            }
            let bytes =
                BASE64_STANDARD.decode(&signature.signature).ok().and_then(|b| <[u8; 64]>::try_from(b).ok());
            let bytes = bytes.ok_or_else(|| wrong("not 64 bytes in base64"))?;
            if !validator.verify_signature(&message, &tycho_types::models::Signature(bytes)) {
                return Err(wrong("not valid"));
            }
            signed += u128::from(validator.weight);
        }
        let total: u128 = validators.iter().map(|v| u128::from(v.weight)).sum();
        if signed * 3 > total * 2 {
            return Ok(());
        }
        let narrow = |weight: u128| u64::try_from(weight).unwrap_or(u64::MAX);
        Err(TrustError::Signatures { seqno, signed: narrow(signed), total: narrow(total) })
    }
}

/// A validator's short id: SHA-256 of its key as `pub.ed25519 key:int256` (ton_api.tl).
pub(crate) fn short_id(validator: &ValidatorDescription) -> HashBytes {
    node_id(&validator.public_key)
}

/// Short id of an Ed25519 key, see lite_api.tl's `liteServer.signature`.
pub fn node_id(key: &HashBytes) -> HashBytes {
    use sha2::{Digest as _, Sha256};
    /// Constructor number of `pub.ed25519`, little-endian as TL writes it.
    const PUB_ED25519: [u8; 4] = [0xc6, 0xb4, 0x13, 0x48];
    HashBytes(Sha256::new().chain_update(PUB_ED25519).chain_update(key.0).finalize().into())
}
