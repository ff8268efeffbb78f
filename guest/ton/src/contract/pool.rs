//! ProxyPool: the operator's bond and a pot for each session (`pool.tolk`).

use super::{ContractError, bare, body, expect, seen, signed_cell, state_init};
use crate::{Address, Arg, Cell, ProvenAccount};
use num_bigint::BigInt;
use payment::contracts::POOL;
use payment::view::{PoolView, PotView};
use payment::{Payout, Session, Signed, Surplus};
use std::collections::BTreeMap;
use tycho_types::cell::{CellBuilder, CellFamily as _, Store as _};
use tycho_types::error::Error;
use tycho_types::models::StateInit;

/// Sessions that the contract keeps at once (`MAX_SESSIONS`).
const SESSIONS_LIMIT: u32 = 8;

/// What makes a pool's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The operator: registers sessions, takes the reserve.
    pub owner: Address,
    /// Makes a new pool of the same owner another account.
    pub salt: u128,
    /// Seconds for which a session's vouchers stay good after it ended; two hours at least.
    pub grace: u32,
}

/// A pool's proven state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What it was made with.
    pub terms: Terms,
    /// Number of the newest session; 0: none yet.
    pub epoch: u32,
    /// What belongs to no pot, nanoTON; below 0 where storage fees ate into the pots.
    pub reserve: i128,
    /// Closed for ever.
    pub closed: bool,
    /// Sessions that still pay, by epoch.
    pub pots: BTreeMap<u32, Pot>,
}

/// One session's pot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pot {
    /// The session's key.
    pub key: [u8; 32],
    /// When its vouchers become void, seconds since 1970; 0 while it is current.
    pub closes_at: u32,
    /// nanoTON ever put in.
    pub funded: u64,
    /// nanoTON ever taken out.
    pub spent: u64,
    /// nanoTON of those that the session gave back.
    pub surplus: u64,
    /// Workers that were paid.
    pub workers: u16,
}

impl Terms {
    /// Code and first data.
    ///
    /// # Errors
    /// See [`ContractError`].
    pub fn state_init(&self) -> Result<StateInit, ContractError> {
        let mut data = CellBuilder::new();
        self.owner.store_into(&mut data, Cell::empty_context())?;
        data.store_u128(self.salt)?;
        data.store_u32(self.grace)?;
        data.store_u32(0)?;
        data.store_bit(false)?;
        data.store_bit(false)?;
        state_init(&POOL, data.build()?)
    }
}

/// The owner registers a session that its own key signed, and puts `allot` nanoTON of the reserve into its pot.
///
/// # Errors
/// Never in practice.
pub fn register(session: &Signed<Session>, allot: u64) -> Result<Cell, Error> {
    let mut body = body(b"REGI")?;
    body.store_reference(signed_cell(session)?)?;
    body.store_u64(allot)?;
    body.build()
}

/// The owner puts `amount` nanoTON of the reserve into the current pot.
///
/// # Errors
/// Never in practice.
pub fn allot(amount: u64) -> Result<Cell, Error> {
    let mut body = body(b"ALLO")?;
    body.store_u64(amount)?;
    body.build()
}

/// The owner ends the current session; its grace begins.
///
/// # Errors
/// Never in practice.
pub fn retire() -> Result<Cell, Error> {
    bare(b"RETI")
}

/// The owner takes `amount` nanoTON of the reserve.
///
/// # Errors
/// Never in practice.
pub fn withdraw(amount: u64) -> Result<Cell, Error> {
    let mut body = body(b"WITH")?;
    body.store_u64(amount)?;
    body.build()
}

/// The owner closes the pool for ever, once no session is live.
///
/// # Errors
/// Never in practice.
pub fn close() -> Result<Cell, Error> {
    bare(b"CLOS")
}

/// Has the named worker paid. Anybody may send it, with at least 0.05 TON for the gas.
///
/// # Errors
/// Never in practice.
pub fn claim(payout: &Signed<Payout>) -> Result<Cell, Error> {
    let mut body = body(b"CLAM")?;
    body.store_reference(signed_cell(payout)?)?;
    body.build()
}

/// Gives back to the reserve what the session does not need.
///
/// # Errors
/// Never in practice.
pub fn take_surplus(surplus: &Signed<Surplus>) -> Result<Cell, Error> {
    let mut body = body(b"SURM")?;
    body.store_reference(signed_cell(surplus)?)?;
    body.build()
}

/// Reads a pool's state by running its get-methods here.
///
/// # Errors
/// If it is no pool, or its values are out of range.
pub fn read(account: &ProvenAccount) -> Result<State, ContractError> {
    expect(account, &POOL)?;
    let mut terms = account.get("pool_terms", &[])?;
    let (owner, salt) = (terms.next_address()?, terms.next_u128()?);
    terms.end()?;
    let mut state = account.get("pool_state", &[])?;
    let (epoch, live) = (state.next_u32()?, state.next_u32()?);
    let reserve = state.next_i128()?;
    let (grace, closed) = (state.next_u32()?, state.next_bool()?);
    state.end()?;
    let mut pots = BTreeMap::new();
    let mut next = epoch;
    // Live sessions are the newest ones, for grace runs out in order.
    while pots.len() < live.min(SESSIONS_LIMIT) as usize && next > 0 && epoch - next < SESSIONS_LIMIT {
        if let Some(pot) = pot(account, next)? {
            pots.insert(next, pot);
        }
        next -= 1;
    }
    Ok(State { terms: Terms { owner, salt, grace }, epoch, reserve, closed, pots })
}

fn pot(account: &ProvenAccount, epoch: u32) -> Result<Option<Pot>, ContractError> {
    let mut values = account.get("pool_session", &[Arg::Int(BigInt::from(epoch))])?;
    let (found, key) = (values.next_bool()?, values.next_u256()?.0);
    let (closes_at, funded) = (values.next_u32()?, values.next_u64()?);
    let (spent, surplus, workers) = (values.next_u64()?, values.next_u64()?, values.next_u16()?);
    values.end()?;
    Ok(found.then_some(Pot { key, closes_at, funded, spent, surplus, workers }))
}

/// What a worker was paid in a session, nanoTON.
///
/// # Errors
/// If it is no pool.
pub fn read_paid(account: &ProvenAccount, epoch: u32, worker: &Address) -> Result<u64, ContractError> {
    expect(account, &POOL)?;
    let worker = CellBuilder::build_from(worker)?;
    let mut values = account.get("pool_paid", &[Arg::Int(BigInt::from(epoch)), Arg::Slice(worker)])?;
    let paid = values.next_u64()?;
    values.end()?;
    Ok(paid)
}

/// A pool's proven state as the machines of `payment` take it.
///
/// # Errors
/// If it is no pool, or its values are out of range.
pub fn view(account: &ProvenAccount) -> Result<PoolView, ContractError> {
    let State { terms, epoch, pots, closed, .. } = read(account)?;
    let pots = pots.into_iter().map(|(epoch, pot)| {
        let Pot { key, closes_at, funded, spent, .. } = pot;
        (epoch, PotView { key, closes_at, funded, spent })
    });
    Ok(PoolView { seen: seen(account), grace: terms.grace, epoch, pots: pots.collect(), closed })
}
