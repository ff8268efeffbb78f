//! What a proven transaction did.

use crate::proof::ProofError;
use crate::{Cell, HashBytes};
use tycho_types::error::Error;
use tycho_types::models::{ComputePhase, Transaction, TxInfo};

/// A transaction whose hash is chained to a proven account.
#[derive(Debug, Clone)]
pub struct ProvenTransaction {
    /// Its hash.
    pub hash: HashBytes,
    /// Its logical time.
    pub lt: u64,
    /// When its block was made, seconds since 1970.
    pub now: u32,
    /// The message that caused it.
    pub in_msg: Option<Cell>,
    /// The messages that it sent, in order.
    pub out_msgs: Vec<Cell>,
    /// Exit code of the contract; absent where no code ran.
    pub exit_code: Option<i32>,
    /// Exit code of its actions; absent where there were none.
    pub action_code: Option<i32>,
    /// Whether it changed nothing but the balance.
    pub aborted: bool,
    /// Gas that the contract used.
    pub gas_used: u64,
    /// All fees that were taken from the account, nanoTON.
    pub total_fees: u128,
    /// Hash and logical time of the transaction before it.
    pub previous: (HashBytes, u64),
}

impl ProvenTransaction {
    /// Reads a transaction that must have hash `expected`.
    ///
    /// # Errors
    /// If it has another, or is no transaction.
    pub fn read(cell: &Cell, expected: &HashBytes) -> Result<Self, ProofError> {
        let what = "transaction";
        if cell.repr_hash() != expected {
            let (expected, found) = (expected.to_string(), cell.repr_hash().to_string());
            return Err(ProofError::Root { what, expected, found });
        }
        Self::parse(cell).map_err(|source| ProofError::Cells { what, source })
    }

    fn parse(cell: &Cell) -> Result<Self, Error> {
        let transaction = cell.parse::<Transaction>()?;
        let mut out = ProvenTransaction {
            hash: *cell.repr_hash(),
            lt: transaction.lt,
            now: transaction.now,
            in_msg: transaction.in_msg.clone(),
            out_msgs: transaction.out_msgs.values().collect::<Result<_, _>>()?,
            exit_code: None,
            action_code: None,
            aborted: false,
            gas_used: 0,
            total_fees: transaction.total_fees.tokens.into_inner(),
            previous: (transaction.prev_trans_hash, transaction.prev_trans_lt),
        };
        let (compute, action, aborted) = match transaction.load_info()? {
            TxInfo::Ordinary(info) => (info.compute_phase, info.action_phase, info.aborted),
            TxInfo::TickTock(info) => (info.compute_phase, info.action_phase, info.aborted),
        };
        out.aborted = aborted;
        if let ComputePhase::Executed(phase) = compute {
            out.exit_code = Some(phase.exit_code);
            out.gas_used = phase.gas_used.into();
        }
        out.action_code = action.map(|phase| phase.result_code);
        Ok(out)
    }
}
