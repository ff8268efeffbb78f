//! ClientVault: one client's money for one pool (`vault.tolk`).

use super::{ContractError, account_of, bare, body, expect, seen, signed_cell, state_init};
use crate::{Address, Cell, HashBytes, ProvenAccount};
use payment::contracts::VAULT;
use payment::view::VaultView;
use payment::{Cap, Signed, Use};
use tycho_types::cell::{CellBuilder, CellFamily as _, Store as _};
use tycho_types::error::Error;
use tycho_types::models::StateInit;

/// What makes a vault's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The client's channel key, which signs Caps.
    pub client_key: [u8; 32],
    /// Who may close it and gets the rest.
    pub owner: Address,
    /// Who is paid.
    pub pool: Address,
    /// Makes a new vault of the same three another account.
    pub salt: u128,
}

/// A vault's proven state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What it was made with.
    pub terms: Terms,
    /// nanoTON that the pool was paid.
    pub claimed: u64,
    /// nanoTON that can still be claimed.
    pub free: u64,
    /// When the owner may take the rest, seconds since 1970; 0 while no close was started.
    pub closes_at: u32,
    /// Closed for ever.
    pub closed: bool,
}

impl Terms {
    /// Code and first data.
    ///
    /// # Errors
    /// See [`ContractError`].
    pub fn state_init(&self) -> Result<StateInit, ContractError> {
        let mut data = CellBuilder::new();
        data.store_raw(&self.client_key, 256)?;
        self.owner.store_into(&mut data, Cell::empty_context())?;
        self.pool.store_into(&mut data, Cell::empty_context())?;
        data.store_u128(self.salt)?;
        data.store_u64(0)?;
        data.store_u32(0)?;
        data.store_bit(false)?;
        state_init(&VAULT, data.build()?)
    }
}

/// Has the pool paid what was used. Anybody may send it, with at least 0.05 TON for the gas.
///
/// # Errors
/// Never in practice.
pub fn claim(cap: &Signed<Cap>, used: &Signed<Use>) -> Result<Cell, Error> {
    let mut body = body(b"CLAM")?;
    body.store_reference(signed_cell(cap)?)?;
    body.store_reference(signed_cell(used)?)?;
    body.build()
}

/// The owner starts the close; 24 hours for the pool's last claim begin.
///
/// # Errors
/// Never in practice.
pub fn start_close() -> Result<Cell, Error> {
    bare(b"STOP")
}

/// The owner takes the rest, after the 24 hours.
///
/// # Errors
/// Never in practice.
pub fn finish_close() -> Result<Cell, Error> {
    bare(b"FINI")
}

/// Reads a vault's state by running its get-methods here.
///
/// # Errors
/// If it is no vault, or its values are out of range.
pub fn read(account: &ProvenAccount) -> Result<State, ContractError> {
    expect(account, &VAULT)?;
    let mut terms = account.get("vault_terms", &[])?;
    let client_key: HashBytes = terms.next_u256()?;
    let terms = {
        let (owner, pool) = (terms.next_address()?, terms.next_address()?);
        let salt = terms.next_u128()?;
        terms.end()?;
        Terms { client_key: client_key.0, owner, pool, salt }
    };
    let mut state = account.get("vault_state", &[])?;
    let (claimed, free, closes_at) = (state.next_u64()?, state.next_u64()?, state.next_u32()?);
    let closed = state.next_bool()?;
    state.end()?;
    Ok(State { terms, claimed, free, closes_at, closed })
}

/// A vault's proven state as the machines of `payment` take it.
///
/// # Errors
/// If it is no vault, or its values are out of range.
pub fn view(account: &ProvenAccount) -> Result<VaultView, ContractError> {
    let State { terms, claimed, free, closes_at, closed } = read(account)?;
    let (seen, pool) = (seen(account), account_of(&terms.pool));
    Ok(VaultView { seen, client_key: terms.client_key, pool, claimed, free, closes_at, closed })
}
