//! Root: proxies and their endpoints, prices of models, the publication root (`root.tolk`).
//!
//! Bounds: a book is read as far as it goes, [`ENTRIES_LIMIT`] entries of each kind at most, endpoints of 127 bytes at most.

use super::{ContractError, body, expect, state_init};
use crate::{Address, Cell, HashBytes, ProvenAccount};
use payment::contracts::ROOT;
use std::collections::BTreeMap;
use tycho_types::cell::{CellBuilder, CellContext, CellFamily as _, CellSlice, Load, Store};
use tycho_types::dict::Dict;
use tycho_types::error::Error;
use tycho_types::models::StateInit;

/// Most entries of one kind that are read of a book.
pub const ENTRIES_LIMIT: usize = 4096;

/// What makes a root's address: its first owners and rules. Its book begins empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Owners, each with a bit of its own below 32.
    pub owners: BTreeMap<Address, u8>,
    /// How many have to approve a change.
    pub threshold: u8,
    /// Seconds between the last approval and the change.
    pub delay: u32,
}

/// Price of a model: `base` nanoTON for a million tokens, times a multiplier in parts of 10,000 for each kind of token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// nanoTON for a million tokens.
    pub base: u64,
    /// Multiplier of prompt tokens.
    pub prompt: u32,
    /// Multiplier of cached prompt tokens.
    pub cached: u32,
    /// Multiplier of completion tokens.
    pub completion: u32,
    /// Multiplier of reasoning tokens.
    pub reasoning: u32,
}

/// A proxy in the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Parts of 10,000 of a charge that the proxy keeps.
    pub commission: u16,
    /// Host and port.
    pub endpoint: String,
}

/// Everything that the root says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// One more with each change.
    pub version: u32,
    /// Epoch of the publication root; never goes down.
    pub release_epoch: u64,
    /// Hash of the publication root.
    pub release_root: [u8; 32],
    /// Prices by the model's verity root.
    pub models: BTreeMap<[u8; 32], Price>,
    /// Proxies by the address of their pool.
    pub proxies: BTreeMap<Address, Proxy>,
}

/// A change that owners can propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a model's price.
    SetPrice([u8; 32], Price),
    /// Takes a model out.
    DropPrice([u8; 32]),
    /// Sets the proxy of a pool.
    SetProxy(Address, Proxy),
    /// Takes a proxy out.
    DropProxy(Address),
    /// Sets the publication root; its epoch must grow.
    SetRelease(u64, [u8; 32]),
    /// Sets owners, threshold and delay.
    SetOwners(Terms),
}

impl Store for Price {
    fn store_into(&self, to: &mut CellBuilder, _: &dyn CellContext) -> Result<(), Error> {
        to.store_u64(self.base)?;
        [self.prompt, self.cached, self.completion, self.reasoning]
            .into_iter()
            .try_for_each(|part| to.store_u32(part))
    }
}

impl<'a> Load<'a> for Price {
    fn load_from(from: &mut CellSlice<'a>) -> Result<Self, Error> {
        let base = from.load_u64()?;
        let (prompt, cached) = (from.load_u32()?, from.load_u32()?);
        Ok(Price { base, prompt, cached, completion: from.load_u32()?, reasoning: from.load_u32()? })
    }
}

impl Proxy {
    fn cell(&self) -> Result<Cell, Error> {
        let mut endpoint = CellBuilder::new();
        let bits = u16::try_from(self.endpoint.len() * 8).map_err(|_| Error::CellOverflow)?;
        endpoint.store_raw(self.endpoint.as_bytes(), bits)?;
        let mut proxy = CellBuilder::new();
        proxy.store_u16(self.commission)?;
        proxy.store_reference(endpoint.build()?)?;
        proxy.build()
    }

    fn read(cell: &Cell) -> Result<Self, Error> {
        let mut slice = cell.as_slice()?;
        let commission = slice.load_u16()?;
        let mut endpoint = slice.load_reference_as_slice()?;
        let bits = endpoint.size_bits();
        let mut bytes = vec![0; usize::from(bits / 8)];
        endpoint.load_raw(&mut bytes, bits / 8 * 8)?;
        let endpoint = String::from_utf8(bytes).map_err(|_| Error::InvalidData)?;
        Ok(Proxy { commission, endpoint })
    }
}

impl Terms {
    fn owners(&self) -> Result<Dict<Address, u8>, Error> {
        let mut owners = Dict::new();
        for (owner, bit) in &self.owners {
            owners.set(owner, *bit)?;
        }
        Ok(owners)
    }

    /// Code and first data.
    ///
    /// # Errors
    /// See [`ContractError`].
    pub fn state_init(&self) -> Result<StateInit, ContractError> {
        let mut book = CellBuilder::new();
        book.store_u32(0)?;
        book.store_u64(0)?;
        book.store_u256(&HashBytes::ZERO)?;
        book.store_zeros(2)?;
        let mut data = CellBuilder::new();
        data.store_u8(self.threshold)?;
        data.store_u32(self.delay)?;
        data.store_u32(0)?;
        self.owners()?.store_into(&mut data, Cell::empty_context())?;
        data.store_bit(false)?;
        data.store_reference(book.build()?)?;
        state_init(&ROOT, data.build()?)
    }
}

impl Change {
    /// The change as the contract reads it.
    ///
    /// # Errors
    /// If an endpoint is longer than 127 bytes.
    pub fn cell(&self) -> Result<Cell, Error> {
        let context = Cell::empty_context();
        let builder = match self {
            Change::SetPrice(model, price) => {
                let mut to = body(b"PRIC")?;
                to.store_u256(&HashBytes(*model))?;
                price.store_into(&mut to, context)?;
                to
            }
            Change::DropPrice(model) => {
                let mut to = body(b"DPRC")?;
                to.store_u256(&HashBytes(*model))?;
                to
            }
            Change::SetProxy(pool, proxy) => {
                let mut to = body(b"PROX")?;
                pool.store_into(&mut to, context)?;
                to.store_reference(proxy.cell()?)?;
                to
            }
            Change::DropProxy(pool) => {
                let mut to = body(b"DPRX")?;
                pool.store_into(&mut to, context)?;
                to
            }
            Change::SetRelease(epoch, root) => {
                let mut to = body(b"RELE")?;
                to.store_u64(*epoch)?;
                to.store_u256(&HashBytes(*root))?;
                to
            }
            Change::SetOwners(terms) => {
                let mut to = body(b"OWNS")?;
                to.store_u8(terms.threshold)?;
                to.store_u32(terms.delay)?;
                terms.owners()?.store_into(&mut to, context)?;
                to
            }
        };
        builder.build()
    }
}

/// An owner proposes a change and approves it.
///
/// # Errors
/// If the change does not fit into cells.
pub fn propose(change: &Change) -> Result<Cell, Error> {
    let mut body = body(b"PROP")?;
    body.store_reference(change.cell()?)?;
    body.build()
}

/// An owner approves a proposal.
///
/// # Errors
/// Never in practice.
pub fn approve(proposal: u32) -> Result<Cell, Error> {
    numbered(b"APPR", proposal)
}

/// An owner takes an approval back.
///
/// # Errors
/// Never in practice.
pub fn revoke(proposal: u32) -> Result<Cell, Error> {
    numbered(b"REVO", proposal)
}

/// Carries an approved proposal out, after the delay. Anybody may send it.
///
/// # Errors
/// Never in practice.
pub fn execute(proposal: u32) -> Result<Cell, Error> {
    numbered(b"EXEC", proposal)
}

fn numbered(opcode: &[u8; 4], number: u32) -> Result<Cell, Error> {
    let mut body = body(opcode)?;
    body.store_u32(number)?;
    body.build()
}

/// Reads the whole book of a root.
///
/// # Errors
/// If it is no root, or its book is malformed.
pub fn read_book(account: &ProvenAccount) -> Result<Book, ContractError> {
    expect(account, &ROOT)?;
    let mut values = account.get("root_book", &[])?;
    let book = values.next_cell()?;
    values.end()?;
    Ok(parse_book(&book)?)
}

/// Rules of a root and how many proposals wait: threshold, delay, owners, proposals.
///
/// # Errors
/// If it is no root.
pub fn read_rules(account: &ProvenAccount) -> Result<(u8, u32, u8, u32), ContractError> {
    expect(account, &ROOT)?;
    let mut values = account.get("root_state", &[])?;
    values.next_u32()?;
    let (threshold, delay, owners) = (values.next_u8()?, values.next_u32()?, values.next_u8()?);
    values.next_u64()?;
    values.next_u256()?;
    let waiting = values.next_u32()?;
    values.end()?;
    Ok((threshold, delay, owners, waiting))
}

/// Reads a book's cell, wherever it comes from.
///
/// # Errors
/// If it is no book.
pub fn parse_book(book: &Cell) -> Result<Book, Error> {
    let mut slice = book.as_slice()?;
    let version = slice.load_u32()?;
    let release_epoch = slice.load_u64()?;
    let release_root = slice.load_u256()?.0;
    let models = Dict::<HashBytes, Price>::load_from(&mut slice)?;
    let proxies = Dict::<Address, Cell>::load_from(&mut slice)?;
    let models = models.iter().take(ENTRIES_LIMIT).map(|entry| entry.map(|(model, price)| (model.0, price)));
    let proxies = proxies.iter().take(ENTRIES_LIMIT).map(|entry| {
        let (pool, proxy) = entry?;
        Ok::<_, Error>((pool, Proxy::read(&proxy)?))
    });
    Ok(Book {
        version,
        release_epoch,
        release_root,
        models: models.collect::<Result<_, _>>()?,
        proxies: proxies.collect::<Result<_, _>>()?,
    })
}
