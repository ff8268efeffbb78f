//! Makes the proofs that a lite server gives, by walking the whole cells with the checker's own eyes.

use crate::ChainError;
use ton::forms::Bag;
use ton::{Address, Cell, HashBytes, proof};
use tycho_types::cell::{CellBuilder, DynCell, UsageTree, UsageTreeMode};
use tycho_types::error::Error;
use tycho_types::merkle::MerkleProof;

/// A Merkle proof of everything that `walk` touches.
fn proof_of<T>(root: &Cell, walk: impl FnOnce(&DynCell) -> Result<T, Error>) -> Result<(T, Bag), ChainError> {
    let usage = UsageTree::new(UsageTreeMode::OnDataAccess);
    let tracked = usage.track(root);
    let seen = walk(tracked.as_ref())?;
    let proof = MerkleProof::create(root.as_ref(), usage).build()?;
    Ok((seen, Bag(CellBuilder::build_from(&proof)?)))
}

/// A block's header and the hash of the state after it.
pub(crate) fn header(block: &Cell) -> Result<Bag, ChainError> {
    Ok(proof_of(block, proof::read_header)?.1)
}

/// An account in its shard's state, and the account beside it.
pub(crate) fn account(state: &Cell, account: &HashBytes) -> Result<(Bag, Option<Bag>), ChainError> {
    let (leaf, bag) = proof_of(state, |root| proof::read_account(root, account))?;
    Ok((bag, leaf.map(|leaf| Bag(leaf.account.untrack()))))
}

/// The shard of an account in a masterchain state.
pub(crate) fn shard(state: &Cell, address: &Address) -> Result<Bag, ChainError> {
    Ok(proof_of(state, |root| proof::read_shard(root, address))?.1)
}

/// Every configuration parameter in a masterchain state.
pub(crate) fn config(state: &Cell) -> Result<Bag, ChainError> {
    Ok(proof_of(state, |root| {
        let config = proof::read_config(root)?;
        touch(config.as_ref());
        Ok(())
    })?
    .1)
}

/// Touches a cell and all below it.
fn touch(cell: &DynCell) {
    let _ = cell.data();
    cell.references().for_each(touch);
}
