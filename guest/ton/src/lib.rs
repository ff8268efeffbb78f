//! The ledger as a guest may believe it.
