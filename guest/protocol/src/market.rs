//! What clients, proxies and workers say to each other beside the OpenAI-shaped bodies: header fields, trailers, SSE
//! comments and JSON bodies, with strict readers and bounds.
//!
//! ```text
//! client -- vault, request, cap, most --> proxy -- job, pool, most, price --> worker
//!        <-- use, receipt (trailers) ---        <-- tokens, load, `:c` comments, usage (trailer) --
//! ```
//! Counts of tokens are disjoint everywhere here, as prices have them: cached tokens are no prompt tokens, and reasoning
//! tokens no completion tokens. Signed vouchers are standard base64 of the voucher's bytes and its signature's; what they
//! say, and whether they are good, is `payment`'s to tell: this module knows their length only.
//!
//! Header values are read strictly: decimal numbers without sign or leading zero, lower-case hexadecimal. Bodies may have
//! fields that this version doesn't know, so that a network need not change in one step.
//!
//! Deliberately absent: what a client is. No field that a worker sees names one.

mod bodies;
mod error;
mod field;
mod sse;

pub use bodies::{
    Body, ClaimEntry, Claims, Consent, Device, Earning, Earnings, ModelFacts, ModelKind, ModelTerms, Needed,
    PaymentError, PayoutEntry, Payouts, Phase, Quote, ReceiptEntry, SelfTest, Terms, VaultTerms, WorkerFacts,
    read,
};
pub use error::MarketError;
pub use field::{
    Account, Blob, DeviceKind, DevicePin, Hex32, Load, Most, Price, Read, Usage, WorkPrice, Written, number,
};
pub use sse::CountReader;

/// Names of header fields and trailers, lower case as HTTP/2 has them.
pub mod header {
    /// Client to proxy: the vault that pays ([`super::Account`]).
    pub const VAULT: &str = "chrysalis-vault";
    /// Client to proxy: the request's number, `u64`, unique in the session for the vault.
    pub const REQUEST: &str = "chrysalis-request";
    /// Client to proxy: a signed cap ([`super::Blob`]).
    pub const CAP: &str = "chrysalis-cap";
    /// Client to proxy: a signed order, which says that this very request is the vault's ([`super::Blob`]).
    pub const ORDER: &str = "chrysalis-order";
    /// Client to proxy to worker: the most tokens ([`super::Most`]).
    pub const MOST: &str = "chrysalis-most";
    /// Client to proxy: milliseconds within which the whole answer is wanted, `u64`.
    pub const DEADLINE_MS: &str = "chrysalis-deadline-ms";
    /// Client to proxy: nanoTON for a million tokens of multiplier 1 above which it does not want the answer, `u64`.
    pub const MAX_PRICE: &str = "chrysalis-max-price";
    /// Client to proxy: on what alone it may be computed ([`super::DevicePin`]).
    pub const DEVICE: &str = "chrysalis-device";
    /// Trailer, proxy to client: a signed use ([`super::Blob`]).
    pub const USE: &str = "chrysalis-use";
    /// Trailer, proxy to client: a signed receipt ([`super::Blob`]).
    pub const RECEIPT: &str = "chrysalis-receipt";
    /// Proxy to worker: the proxy's own number of the job, `u64`, without meaning to anybody else.
    pub const JOB: &str = "chrysalis-job";
    /// Proxy to worker: the pool that pays ([`super::Account`]).
    pub const POOL: &str = "chrysalis-pool";
    /// Proxy to worker: what a token costs, and the proxy's part ([`super::WorkPrice`]).
    pub const PRICE: &str = "chrysalis-price";
    /// Worker to proxy, with the head of the answer: what was read ([`super::Read`]).
    pub const TOKENS: &str = "chrysalis-tokens";
    /// Trailer, worker to proxy: what a complete answer took ([`super::Usage`]).
    pub const USAGE: &str = "chrysalis-usage";
    /// Worker to proxy: how busy it is ([`super::Load`]).
    pub const LOAD: &str = "chrysalis-load";
}

/// Paths, on the attested sessions of proxies and workers.
pub mod path {
    /// Proxy: [`super::Terms`].
    pub const TERMS: &str = "/chrysalis/v1/terms";
    /// Proxy: [`super::VaultTerms`]; an account follows.
    pub const VAULTS: &str = "/chrysalis/v1/vaults/";
    /// Proxy: [`super::Quote`].
    pub const QUOTE: &str = "/chrysalis/v1/quote";
    /// Proxy: [`super::Consent`].
    pub const SESSION: &str = "/chrysalis/v1/session";
    /// Proxy: [`super::Claims`].
    pub const CLAIMS: &str = "/chrysalis/v1/claims";
    /// Proxy: [`super::Payouts`]; a worker's account follows.
    pub const PAYOUTS: &str = "/chrysalis/v1/payouts/";
    /// Proxy: [`super::ReceiptEntry`]; a vault's account, a slash and a request's number follow.
    pub const RECEIPTS: &str = "/chrysalis/v1/receipts/";
    /// Proxy and worker: Prometheus text.
    pub const METRICS: &str = "/metrics";
    /// Worker: [`super::WorkerFacts`].
    pub const WORKER: &str = "/chrysalis/v1/worker";
    /// Worker: takes a signed payout ([`super::Blob`] as the body).
    pub const PAYOUT: &str = "/chrysalis/v1/payout";
    /// Worker: [`super::Earnings`].
    pub const EARNINGS: &str = "/chrysalis/v1/earnings";
}
