//! The compiled contracts, as committed beside their source.
//!
//! A test compiles the sources again and compares (`tests/contracts.rs`). `ton` makes cells and addresses of them.

/// One compiled contract.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    /// Name of its source, `contracts/NAME.tolk`.
    pub name: &'static str,
    boc_hex: &'static str,
    hash_hex: &'static str,
}

/// One client's money for one pool.
pub const VAULT: Contract = Contract {
    name: "vault",
    boc_hex: include_str!("../contracts/built/vault.boc.hex"),
    hash_hex: include_str!("../contracts/built/vault.hash"),
};

/// The operator's bond and a pot for each session.
pub const POOL: Contract = Contract {
    name: "pool",
    boc_hex: include_str!("../contracts/built/pool.boc.hex"),
    hash_hex: include_str!("../contracts/built/pool.hash"),
};

/// Proxies, prices and the publication root.
pub const ROOT: Contract = Contract {
    name: "root",
    boc_hex: include_str!("../contracts/built/root.boc.hex"),
    hash_hex: include_str!("../contracts/built/root.hash"),
};

impl Contract {
    /// The code as a bag of cells with one root.
    pub fn boc(&self) -> Vec<u8> {
        let digits: String = self.boc_hex.split_whitespace().collect();
        hex::decode(digits).unwrap_or_default()
    }

    /// Hash of the code's root cell.
    pub fn code_hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        // Committed text of 64 digits, which the tests read; zeros are the hash of no cell.
        hex::decode_to_slice(self.hash_hex.trim(), &mut hash).unwrap_or_default();
        hash
    }
}
