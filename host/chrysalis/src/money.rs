//! Commands about money: wallets, the root contract, pools, vaults and what workers earned.
//!
//! ```text
//! wallet (a key file) --messages--> root, pool, vault         every wait is for a proven state, never for a server's word
//! pool, worker --vouchers over attested channels--> submitted here; they can't be redirected
//! ```
//! Amounts are given in TON (`1.5`) and printed in TON; JSON has nanoTON.

pub mod amount;
pub mod chain;
pub mod key;
pub mod peer;
pub mod pool;
pub mod root;
pub mod tend;
pub mod vault;
pub mod wallet;
pub mod worker;
