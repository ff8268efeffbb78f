//! JSON bodies. Each has a longest form that is looked at before anything is parsed, and bounds on its lists.

use super::error::MarketError;
use super::field::{Account, Blob, Hex32, Price};
use crate::openai::ErrorObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Most models of one worker or proxy.
const MODELS: usize = 256;
/// Most vouchers in one list.
const VOUCHERS: usize = 2048;
/// Longest name, in bytes.
const NAME: usize = 64;

/// A body with bounds.
pub trait Body: DeserializeOwned {
    /// For messages.
    const WHAT: &'static str;
    /// Longest form in bytes.
    const LIMIT: usize;

    /// Looks at lengths within it.
    ///
    /// # Errors
    /// [`MarketError::Field`].
    fn check(&self) -> Result<(), MarketError> {
        Ok(())
    }
}

/// Reads a body that a peer sent.
///
/// # Errors
/// [`MarketError`]; none of them repeats what was sent.
pub fn read<T: Body>(bytes: &[u8]) -> Result<T, MarketError> {
    if bytes.len() > T::LIMIT {
        return Err(MarketError::TooLong { what: T::WHAT, limit: T::LIMIT, found: bytes.len() });
    }
    let body: T = serde_json::from_slice(bytes).map_err(|error| MarketError::Shape {
        what: T::WHAT,
        line: error.line(),
        column: error.column(),
    })?;
    body.check()?;
    Ok(body)
}

fn at_most(what: &'static str, field: &'static str, limit: usize, found: usize) -> Result<(), MarketError> {
    if found > limit { Err(MarketError::Field { what, field, limit, found }) } else { Ok(()) }
}

/// Where a proxy's session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The pool doesn't name it yet.
    Waiting,
    /// It is the pool's.
    Active,
    /// Another one is, or none any more.
    Over,
}

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// Writes text.
    Chat,
    /// Gives vectors.
    Embedding,
}

/// `GET /chrysalis/v1/terms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Of the network.
    pub global_id: i32,
    /// Whom vaults pay.
    pub pool: Account,
    /// Whose book has the prices.
    pub root: Account,
    /// Ed25519 public key that signs vouchers; the channel binds it too.
    pub session_key: Hex32,
    /// Of the session.
    pub phase: Phase,
    /// Of the session; 0 before it was active.
    pub epoch: u32,
    /// Parts of 10,000 of a charge that the proxy keeps.
    pub commission: u16,
    /// What can be asked for now.
    pub models: Vec<ModelTerms>,
}

impl Body for Terms {
    const WHAT: &'static str = "terms";
    const LIMIT: usize = 256 * 1024;
    fn check(&self) -> Result<(), MarketError> {
        at_most(Self::WHAT, "models", MODELS, self.models.len())?;
        let longest = self.models.iter().map(|model| model.name.len()).max().unwrap_or(0);
        at_most(Self::WHAT, "models.name", NAME, longest)
    }
}

/// One model of [`Terms`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTerms {
    /// As workers' measured configurations have it.
    pub name: String,
    /// Its verity root; `name@root` asks for exactly this one.
    pub root: Hex32,
    /// By the root contract; none where its book has none, and then nobody can ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What it does; none until a worker said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ModelKind>,
    /// Most tokens of prompt and completion together; 0 until a worker said so.
    #[serde(default)]
    pub context: u32,
    /// Most tokens of a completion.
    #[serde(default)]
    pub max_completion: u32,
    /// How many have it and have said lately that they passed its self-test.
    pub workers: u32,
    /// Requests that could begin at once.
    pub free: u32,
    /// Milliseconds for a token, as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_ms_per_token: Option<u32>,
    /// Milliseconds to the first byte, as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_first_ms: Option<u32>,
}

/// `GET /chrysalis/v1/vaults/ACCOUNT`: a vault as this proxy's books have it, in nanoTON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultTerms {
    /// Charged in all.
    pub used: u64,
    /// Held by boots that ended before they settled.
    pub lost: u64,
    /// Held now.
    pub held: u64,
    /// What a cap must cover before a request's hold: the sum.
    pub floor: u64,
    /// The newest use that this boot signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_use: Option<Blob>,
}

impl Body for VaultTerms {
    const WHAT: &'static str = "vault terms";
    const LIMIT: usize = 4096;
}

/// `GET /chrysalis/v1/quote`: what so many requests of so many tokens would cost, and how fast they could be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// By the root contract.
    pub price: Price,
    /// nanoTON for one request.
    pub charge_per_request: u64,
    /// nanoTON for all.
    pub total: u64,
    /// Of all workers that have the model, as measured; none before anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_tokens_per_s: Option<u64>,
    /// For all of them, with nobody else asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_ms: Option<u64>,
}

impl Body for Quote {
    const WHAT: &'static str = "quote";
    const LIMIT: usize = 4096;
}

/// `GET /chrysalis/v1/session`: the consent that the pool's owner sends to the pool, while the session waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Where the session stands.
    pub phase: Phase,
    /// Of the session; 0 before it was active.
    pub epoch: u32,
    /// A signed session; only while it waits, and after the pool was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Blob>,
}

impl Body for Consent {
    const WHAT: &'static str = "session";
    const LIMIT: usize = 4096;
}

/// `GET /chrysalis/v1/claims`: vouchers that vaults pay the pool for, whoever sends them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// One for each vault.
    pub claims: Vec<ClaimEntry>,
}

impl Body for Claims {
    const WHAT: &'static str = "claims";
    const LIMIT: usize = 2 * 1024 * 1024;
    fn check(&self) -> Result<(), MarketError> {
        at_most(Self::WHAT, "claims", VOUCHERS, self.claims.len())
    }
}

/// One of [`Claims`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimEntry {
    /// Who pays.
    pub vault: Account,
    /// Signed by the client.
    pub cap: Blob,
    /// Signed by the session.
    #[serde(rename = "use")]
    pub used: Blob,
    /// nanoTON that it brings, as far as the proxy sees.
    pub due: u64,
    /// Unix seconds after which it may bring nothing.
    pub by: u32,
}

/// `GET /chrysalis/v1/payouts/ACCOUNT`: the newest payout of a worker in each session that the proxy knows of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payouts {
    /// By epoch.
    pub payouts: Vec<PayoutEntry>,
}

impl Body for Payouts {
    const WHAT: &'static str = "payouts";
    const LIMIT: usize = 256 * 1024;
    fn check(&self) -> Result<(), MarketError> {
        at_most(Self::WHAT, "payouts", VOUCHERS, self.payouts.len())
    }
}

/// One of [`Payouts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutEntry {
    /// Whose pot pays.
    pub epoch: u32,
    /// nanoTON over the session.
    pub total: u64,
    /// Signed by the session.
    pub payout: Blob,
}

/// `GET /chrysalis/v1/receipts/ACCOUNT/NUMBER`: what a finished request left, for a client that lost its trailers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptEntry {
    /// A signed use.
    #[serde(rename = "use")]
    pub used: Blob,
    /// A signed receipt.
    pub receipt: Blob,
}

impl Body for ReceiptEntry {
    const WHAT: &'static str = "receipt";
    const LIMIT: usize = 4096;
}

/// The body of an answer 402: OpenAI's error, and what would put it right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentError {
    /// `code` is `payment_required`.
    pub error: ErrorObject,
    /// What the request needs; absent where no amount would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<Needed>,
}

impl Body for PaymentError {
    const WHAT: &'static str = "payment error";
    const LIMIT: usize = 16 * 1024;
}

/// What a request needs of its vault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needed {
    /// nanoTON that the cap must be at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u64>,
    /// nanoTON that the vault must ever have held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<u64>,
    /// Unix seconds that the cap must last until.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<u64>,
}

/// `GET /chrysalis/v1/worker`: what a worker says of itself. It adds to its measured configuration and replaces none of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// Of the measured configuration; others are ignored.
    pub models: Vec<ModelFacts>,
    /// What it computes on.
    pub device: Device,
    /// First hour and the hour after the last, UTC, in which it wants work: `[0, 24]` for always; `[22, 6]` spans midnight.
    pub hours: [u8; 2],
    /// Where it is paid; none where it works unpaid.
    #[serde(default)]
    pub wallet: Option<Account>,
    /// nanoTON of delivered work that may wait for a voucher.
    #[serde(default)]
    pub credit: u64,
    /// Requests computed at the moment.
    #[serde(default)]
    pub running: u32,
    /// Requests not begun.
    #[serde(default)]
    pub waiting: u32,
    /// Requests that can be computed at one time.
    pub slots: u32,
}

impl Body for WorkerFacts {
    const WHAT: &'static str = "worker facts";
    const LIMIT: usize = 256 * 1024;
    fn check(&self) -> Result<(), MarketError> {
        at_most(Self::WHAT, "models", MODELS, self.models.len())?;
        let longest = self.models.iter().map(|model| model.name.len()).max().unwrap_or(0);
        at_most(Self::WHAT, "models.name", NAME, longest)?;
        at_most(Self::WHAT, "device.name", NAME, self.device.name.len())?;
        at_most(Self::WHAT, "hours", 24, usize::from(self.hours[0].max(self.hours[1])))
    }
}

/// One model of [`WorkerFacts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// As measured.
    pub name: String,
    /// As measured.
    pub root: Hex32,
    /// What it does.
    pub kind: ModelKind,
    /// Most tokens of prompt and completion together.
    pub context: u32,
    /// Most tokens of a completion.
    pub max_completion: u32,
    /// How it computed a known question when it started; without one that passed, no proxy sends it a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_test: Option<SelfTest>,
}

/// A known question answered at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// SHA-256 of the answer.
    pub digest: Hex32,
    /// Whether it was the expected one.
    pub passed: bool,
}

/// What a worker computes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `cpu` or `gpu` ([`super::DeviceKind`]); whoever pins a device is not sent to any other.
    pub kind: String,
    /// Such as the processor's name.
    pub name: String,
    /// Bytes that models can take.
    pub memory_bytes: u64,
}

/// `GET /chrysalis/v1/earnings` of a worker: vouchers that pay its wallet, whoever sends them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earnings {
    /// Who is paid; none where it works unpaid.
    pub wallet: Option<Account>,
    /// One for each pool and session.
    pub payouts: Vec<Earning>,
}

impl Body for Earnings {
    const WHAT: &'static str = "earnings";
    const LIMIT: usize = 1024 * 1024;
    fn check(&self) -> Result<(), MarketError> {
        at_most(Self::WHAT, "payouts", VOUCHERS, self.payouts.len())
    }
}

/// One of [`Earnings`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earning {
    /// Who pays.
    pub pool: Account,
    /// Whose pot pays.
    pub epoch: u32,
    /// nanoTON over the session.
    pub total: u64,
    /// nanoTON that it brings, as far as the worker sees.
    pub due: u64,
    /// Signed by the session.
    pub payout: Blob,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACCOUNT: Account = Account { workchain: 0, hash: [0x11; 32] };

    fn facts() -> WorkerFacts {
        let model = ModelFacts {
            name: "m".into(),
            root: Hex32([2; 32]),
            kind: ModelKind::Chat,
            context: 512,
            max_completion: 256,
            self_test: Some(SelfTest { digest: Hex32([3; 32]), passed: true }),
        };
        WorkerFacts {
            models: vec![model],
            device: Device { kind: "cpu".into(), name: "a processor".into(), memory_bytes: 1 << 30 },
            hours: [0, 24],
            wallet: Some(ACCOUNT),
            credit: 1,
            running: 1,
            waiting: 0,
            slots: 2,
        }
    }

    #[test]
    fn facts_round_trip_and_unknown_fields_are_passed_over() {
        let mut json = serde_json::to_value(facts()).unwrap();
        json["later"] = serde_json::json!({ "version": 2 });
        assert_eq!(read::<WorkerFacts>(json.to_string().as_bytes()), Ok(facts()));
    }

    #[test]
    fn bounds_are_looked_at() {
        let refused =
            |facts: WorkerFacts| read::<WorkerFacts>(&serde_json::to_vec(&facts).unwrap()).unwrap_err();
        let mut many = facts();
        many.models = vec![many.models[0].clone(); MODELS + 1];
        assert!(matches!(refused(many), MarketError::Field { field: "models", .. }));
        let late = WorkerFacts { hours: [0, 25], ..facts() };
        assert!(matches!(refused(late), MarketError::Field { field: "hours", .. }));
        let padded = vec![b' '; Quote::LIMIT + 1];
        assert!(matches!(read::<Quote>(&padded), Err(MarketError::TooLong { .. })));
    }

    #[test]
    fn an_error_says_where_and_repeats_nothing() {
        let error = read::<Quote>(b"{\"price\": \"a secret text\"}").unwrap_err();
        assert!(error.is_peer_fault());
        let text = error.to_string();
        assert!(!text.contains("secret") && text.contains("line 1"), "{text}");
    }

    #[test]
    fn a_claim_has_the_word_use() {
        let entry =
            ClaimEntry { vault: ACCOUNT, cap: Blob::new(vec![1]), used: Blob::new(vec![2]), due: 3, by: 4 };
        let claims = Claims { claims: vec![entry] };
        let json = serde_json::to_value(&claims).unwrap();
        assert_eq!(json["claims"][0]["use"], "Ag==");
        assert_eq!(read::<Claims>(json.to_string().as_bytes()), Ok(claims));
    }

    #[test]
    fn a_payment_error_is_an_openai_error_with_what_is_needed() {
        let json = r#"{"error":{"message":"m","type":"invalid_request_error","param":null,
            "code":"payment_required"},"needed":{"cap":7}}"#;
        let error = read::<PaymentError>(json.as_bytes()).unwrap();
        assert_eq!(error.needed, Some(Needed { cap: Some(7), ..Needed::default() }));
        assert!(serde_json::from_str::<crate::openai::ErrorBody>(json).is_ok());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read::<Terms>(&bytes);
            let _ = read::<WorkerFacts>(&bytes);
            let _ = read::<Claims>(&bytes);
        }

        #[test]
        fn changed_facts_never_panic(at in 0usize..400, byte in any::<u8>()) {
            let mut bytes = serde_json::to_vec(&facts()).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(facts) = read::<WorkerFacts>(&bytes) {
                prop_assert!(facts.check().is_ok());
            }
        }
    }
}
