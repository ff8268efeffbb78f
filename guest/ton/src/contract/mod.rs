//! The three contracts as cells: first state, messages, and what their get-methods say of a proven state.
//!
//! Layouts are those of `guest/payment/contracts/*.tolk`, which own them; code and code hash come from `payment`. A reader
//! refuses an account that runs other code, so that an address alone is never believed.

pub mod pool;
pub mod root;
pub mod vault;

use crate::{Address, Cell, GetError, HashBytes, ProvenAccount, message};
use payment::contracts::Contract;
use payment::{Signed, Voucher};
use tycho_types::boc::Boc;
use tycho_types::cell::CellBuilder;
use tycho_types::error::Error;
use tycho_types::models::StateInit;

/// A contract's cells could not be made, or its state not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// A value does not fit.
    #[error("cells of a contract: {0}")]
    Cells(#[from] Error),
    /// The committed code is malformed.
    #[error("the committed code of `{0}` is no bag of cells; compile it again")]
    Code(&'static str),
    /// The account is not deployed, or runs something else.
    #[error(
        "{address} runs code {found}, expected `{contract}` with {expected}; is this the right address, and deployed?"
    )]
    Other {
        /// The account.
        address: Address,
        /// Hash of its code.
        found: String,
        /// Which contract was expected.
        contract: &'static str,
        /// Hash of that contract's code.
        expected: HashBytes,
    },
    /// A get-method failed.
    #[error(transparent)]
    Get(#[from] GetError),
}

/// An account as vouchers write it.
pub fn account_of(address: &Address) -> payment::Address {
    payment::Address { workchain: address.workchain, hash: address.address.0 }
}

/// An account of a voucher as an address.
pub fn address_of(account: &payment::Address) -> Address {
    Address::new(account.workchain, HashBytes(account.hash))
}

/// The block that a state was proven to, as the machines of `payment` take it.
fn seen(account: &ProvenAccount) -> payment::view::Seen {
    payment::view::Seen { seqno: account.block().seqno(), time: account.block().gen_utime() }
}

/// Code and first data of a contract.
fn state_init(contract: &Contract, data: Cell) -> Result<StateInit, ContractError> {
    let code = Boc::decode(contract.boc()).map_err(|_| ContractError::Code(contract.name))?;
    Ok(message::state_init(code, data))
}

/// The account must run exactly the committed code.
fn expect(account: &ProvenAccount, contract: &Contract) -> Result<(), ContractError> {
    let expected = HashBytes(contract.code_hash());
    match account.code_hash() {
        Some(found) if found == expected => Ok(()),
        found => Err(ContractError::Other {
            address: account.address().clone(),
            found: found.map_or("none".into(), |found| found.to_string()),
            contract: contract.name,
            expected,
        }),
    }
}

/// A message's body that is its opcode alone.
fn bare(opcode: &[u8; 4]) -> Result<Cell, Error> {
    body(opcode)?.build()
}

/// A message's body, begun with its opcode.
fn body(opcode: &[u8; 4]) -> Result<CellBuilder, Error> {
    let mut builder = CellBuilder::new();
    builder.store_raw(opcode, 32)?;
    Ok(builder)
}

/// A voucher with its signature: the signature's bits, and the voucher's bytes in a cell of their own.
pub fn signed_cell<V: Voucher>(signed: &Signed<V>) -> Result<Cell, Error> {
    let bytes = signed.voucher.encode();
    let mut voucher = CellBuilder::new();
    voucher.store_raw(&bytes, u16::try_from(bytes.len() * 8).map_err(|_| Error::CellOverflow)?)?;
    let mut builder = CellBuilder::new();
    builder.store_raw(&signed.signature, 512)?;
    builder.store_reference(voucher.build()?)?;
    builder.build()
}

/// Coins to nobody's credit but the contract's: a top-up.
///
/// # Errors
/// Never in practice.
pub fn top_up() -> Result<Cell, Error> {
    bare(b"TOPU")
}
