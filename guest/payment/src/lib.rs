//! Payments between clients, proxies and workers, as values: vouchers, receipts, prices, the state machines of the three
//! parties and the proxy's write-ahead log. The contracts that redeem vouchers stand in `contracts/`.
//!
//! ```text
//! client --Cap--> proxy --Payout--> worker          vault --VaultPayment--> pool (pot of the epoch) --Earned--> worker
//!        <--Use---                                    ^ Cap + Use                 ^ Payout
//! ```
//! Pure: no I/O, no clock, no randomness; time, seeds and what was proven of the chain are passed in, and effects come
//! out. Amounts are nanoTON in `u64` (the chain has 5.1e18 of them; `u64` holds 1.8e19).
//!
//! Deliberately absent: cells and messages (`ton` makes them), and any sealed key: a session's key lives as long as the
//! boot that made it (`docs/decisions/0027-the-owner-registers-sessions.md`).

pub mod batch;
pub mod bytes;
pub mod client;
pub mod contracts;
pub mod error;
pub mod log;
pub mod order;
pub mod price;
pub mod proxy;
pub mod receipt;
pub mod refused;
pub mod sign;
pub mod view;
pub mod voucher;
pub mod worker;

pub use error::VoucherError;
pub use order::Order;
pub use refused::Refused;
pub use sign::{PublicKey, SecretKey, Signed, Verified};
pub use voucher::{Address, Cap, Payout, Session, Surplus, Use, Voucher};
