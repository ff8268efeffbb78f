//! Geometry of a dm-verity hash tree, and the check of its topmost block.
//!
//! Levels lie on disk from the top down; each hash block holds 128 SHA-256 digests of 4096-byte blocks one level
//! below. The root is the hash of salt and topmost block (hash type 1). With a single data block there is no tree and
//! the root is the hash of that block.

use crate::{BLOCK, RootHash};
use sha2::{Digest, Sha256};

/// Digests in one hash block.
const FANOUT: u64 = 128;

/// Number of hash blocks for so many data blocks.
pub fn hash_blocks(data_blocks: u64) -> u64 {
    let mut total = 0;
    let mut level = data_blocks;
    while level > 1 {
        level = level.div_ceil(FANOUT);
        total += level;
    }
    total
}

/// Whether this block is what the root commits to; the hash that was found if not.
pub fn check_top_block(root: &RootHash, salt: &[u8], block: &[u8; BLOCK as usize]) -> Result<(), RootHash> {
    let found = RootHash(Sha256::new().chain_update(salt).chain_update(block).finalize().into());
    if found == *root { Ok(()) } else { Err(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_the_size_that_veritysetup_writes() {
        assert_eq!(hash_blocks(1), 0);
        assert_eq!(hash_blocks(2), 1);
        assert_eq!(hash_blocks(128), 1);
        assert_eq!(hash_blocks(129), 3);
        assert_eq!(hash_blocks(128 * 128), 129);
        assert_eq!(hash_blocks(128 * 128 + 1), 132);
    }

    #[test]
    fn another_top_block_is_refused_with_its_hash() {
        let mut block = [5u8; BLOCK as usize];
        let root = check_top_block(&RootHash([0; 32]), b"salt", &block).unwrap_err();
        assert!(check_top_block(&root, b"salt", &block).is_ok());
        assert!(check_top_block(&root, b"", &block).is_err());
        block[4095] ^= 0x80;
        assert_ne!(check_top_block(&root, b"salt", &block).unwrap_err(), root);
    }
}
