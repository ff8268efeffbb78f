//! Messages as cells: external ones that are broadcast, and internal ones that a wallet sends.

use crate::{Address, Cell};
use tycho_types::cell::{CellBuilder, CellSliceParts};
use tycho_types::error::Error;
use tycho_types::models::{
    CurrencyCollection, ExtInMsgInfo, IntAddr, MsgInfo, OwnedMessage, OwnedRelaxedMessage, RelaxedIntMsgInfo,
    RelaxedMsgInfo, StateInit,
};
use tycho_types::num::Tokens;

/// Code and data that an account begins with.
pub fn state_init(code: Cell, data: Cell) -> StateInit {
    StateInit { code: Some(code), data: Some(data), ..StateInit::default() }
}

/// The address in workchain 0 that a [`state_init`] has: the hash of its cell.
///
/// # Errors
/// Never, as long as the cells are no deeper than TON allows.
pub fn address_of(init: &StateInit) -> Result<Address, Error> {
    Ok(Address::new(0, *CellBuilder::build_from(init)?.repr_hash()))
}

/// An internal message that a wallet can send: `value` nanoTON to `to`.
///
/// `bounce` says whether the value comes back where the receiver fails or does not exist.
///
/// # Errors
/// If the value is above 2^120 nanoTON.
pub fn internal(
    to: &Address,
    value: u128,
    bounce: bool,
    init: Option<StateInit>,
    body: Cell,
) -> Result<Cell, Error> {
    if value >> 120 != 0 {
        return Err(Error::IntOverflow);
    }
    CellBuilder::build_from(OwnedRelaxedMessage {
        info: RelaxedMsgInfo::Int(RelaxedIntMsgInfo {
            ihr_disabled: true,
            bounce,
            bounced: false,
            // Who sends it fills this in; a message that names another sender is dropped.
            src: None,
            dst: IntAddr::Std(to.clone()),
            value: CurrencyCollection::from(Tokens::new(value)),
            extra_flags: Default::default(),
            fwd_fee: Tokens::ZERO,
            created_lt: 0,
            created_at: 0,
        }),
        init,
        body: CellSliceParts::from(body),
        layout: None,
    })
}

/// An external message, as it is broadcast.
///
/// # Errors
/// If the cells are deeper than TON allows.
pub fn external(to: &Address, init: Option<StateInit>, body: Cell) -> Result<Cell, Error> {
    CellBuilder::build_from(OwnedMessage {
        info: MsgInfo::ExtIn(ExtInMsgInfo {
            src: None,
            dst: IntAddr::Std(to.clone()),
            import_fee: Tokens::ZERO,
        }),
        init,
        body: CellSliceParts::from(body),
        layout: None,
    })
}

/// The body of a plain transfer with a comment, as wallets show it (opcode 0). The text may not exceed 123 bytes.
///
/// # Errors
/// If the text is longer.
pub fn comment(text: &str) -> Result<Cell, Error> {
    let mut builder = CellBuilder::new();
    builder.store_u32(0)?;
    builder.store_raw(text.as_bytes(), u16::try_from(text.len() * 8).map_err(|_| Error::CellOverflow)?)?;
    builder.build()
}
