//! One proxy: a session that is attested, terms that are held against the chain, and whether it may still be asked.
//!
//! ```text
//! dial -> evidence, release -> key "sk" -> terms: session key = sk, network, pool, root -> vault: floor <= allowed -> Live
//!                                                                        any of these is a lie: left, for good
//! ```

use super::account::Account;
use super::chain::Listed;
use super::{Event, Report};
use crate::{ClientError, reach};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use payment::{Address, PublicKey, Refused, VoucherError};
use protocol::market::{self, MarketError, ModelTerms, Phase, Terms, VaultTerms, path};
use ratls::session::{End, RequestError, Requests};
use ratls::{Endpoint, Peer, Verifier, Wanted};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// Name of the application key that signs vouchers.
pub const SESSION_KEY: &str = "sk";
/// How long terms and the like may take.
const SHORT: Duration = Duration::from_secs(20);
/// Age of terms at which they are asked for again.
const TERMS_AGE: Duration = Duration::from_secs(10);
/// First and longest pause before a proxy that failed is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Why a proxy can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It did what a right one never does.
    #[error("it was left: {0}")]
    Left(String),
    /// It failed a moment ago.
    #[error("it failed a moment ago and is tried again soon: {reason}")]
    Resting {
        /// How.
        reason: String,
        /// Whether that was its fault.
        fault: bool,
    },
    /// No attested connection.
    #[error(transparent)]
    Connect(#[from] ClientError),
    /// It attested no key for vouchers.
    #[error("its evidence names no Ed25519 key `sk`: {0}; no cap is signed for it")]
    Key(String),
    /// The session gave no answer.
    #[error("no answer to GET {path}: {source}")]
    Request {
        /// What was asked for.
        path: String,
        /// What the session says.
        #[source]
        source: RequestError,
    },
    /// Another status than 200, or none in time.
    #[error("GET {path} was answered {found}, 200 expected")]
    Status {
        /// What was asked for.
        path: String,
        /// Status, or that there was none.
        found: String,
    },
    /// A body that is none.
    #[error(transparent)]
    Body(#[from] MarketError),
    /// Terms that are not those of the chain, or of the attested key.
    #[error("its terms say `{field}` {found}, {expected} expected")]
    Terms {
        /// Which field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What the chain or the channel says.
        expected: String,
    },
    /// Its session takes no requests.
    #[error("its session is {}; its owner registers it", .0)]
    Phase(&'static str),
    /// What it says was used was never allowed.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl ProxyError {
    /// Whether the proxy did what a right one never does.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Self::Left(_) | Self::Key(_) => true,
            Self::Resting { fault, .. } => *fault,
            Self::Connect(ClientError::Refused { .. }) => true,
            Self::Connect(ClientError::Channel { source, .. }) => source.is_peer_fault(),
            Self::Terms { .. } => true,
            Self::Body(error) => error.is_peer_fault(),
            Self::Refused(refused) => refused.is_peer_fault(),
            Self::Connect(_) | Self::Request { .. } => false,
            Self::Status { .. } | Self::Phase(_) => false,
        }
    }

    /// Whether it is left for good: it is attested and lies, which no new try changes. Evidence that is refused may be
    /// right under tomorrow's reference values.
    fn is_final(&self) -> bool {
        self.is_peer_fault() && !matches!(self, Self::Connect(_) | Self::Resting { .. })
    }
}

/// What all proxies of a gateway are held against.
pub struct Shared {
    /// This end, which proves nothing.
    pub me: Arc<Endpoint>,
    /// What evidence is held against.
    pub verifier: Arc<Verifier>,
    /// What a proxy must be.
    pub wanted: Wanted,
    /// Of the network.
    pub global_id: i32,
    /// The root contract.
    pub root: Address,
    /// Who is told.
    pub report: Report,
    /// Set when the gateway stops; sessions drain then.
    pub stop: watch::Receiver<bool>,
}

/// A session that can be asked.
#[derive(Clone)]
pub struct Live {
    /// Sends.
    pub requests: Requests,
    /// Attested on this connection; signs uses and receipts.
    pub key: PublicKey,
    /// What it offers.
    pub terms: Arc<Terms>,
    /// When the session was made; no two of a proxy have the same.
    made: Instant,
    asked: Instant,
}

impl Live {
    /// The models of this name and, where given, this root.
    pub fn models(&self, name: &str, root: Option<[u8; 32]>) -> impl Iterator<Item = &ModelTerms> {
        let fits = move |model: &&ModelTerms| root.is_none_or(|root| root == model.root.0);
        self.terms.models.iter().filter(move |model| model.name == name).filter(fits)
    }
}

/// How it went.
#[derive(Default)]
struct Health {
    left: Option<String>,
    failed: Option<Failed>,
}

/// The last failure.
struct Failed {
    reason: String,
    /// Whether it was the proxy's.
    fault: bool,
    /// When to try again.
    until: Instant,
    /// The pause after the next one.
    next: Duration,
}

/// A proxy of the book that a vault of this client pays.
pub struct Proxy {
    pool: Address,
    account: Arc<Account>,
    listed: Mutex<Listed>,
    shared: Arc<Shared>,
    dialling: tokio::sync::Mutex<()>,
    live: Mutex<Option<Live>>,
    health: Mutex<Health>,
}

impl Proxy {
    /// Not connected yet.
    pub fn new(pool: Address, account: Arc<Account>, listed: Listed, shared: Arc<Shared>) -> Self {
        let (live, health) = (Mutex::default(), Mutex::default());
        let listed = Mutex::new(listed);
        Self { pool, account, listed, shared, dialling: tokio::sync::Mutex::default(), live, health }
    }

    /// Whom the vault pays.
    pub fn pool(&self) -> Address {
        self.pool
    }

    /// The vault.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// `HOST:PORT`, by the book.
    pub fn endpoint(&self) -> String {
        lock(&self.listed).endpoint.clone()
    }

    /// Takes what the book says now; another endpoint counts from the next connection on.
    pub fn on_listed(&self, listed: &Listed) {
        let mut had = lock(&self.listed);
        if *had != *listed {
            *had = listed.clone();
        }
    }

    /// The session, if there is one that can be asked at once.
    pub fn connected(&self) -> Option<Live> {
        if lock(&self.health).left.is_some() {
            return None;
        }
        let active = |live: &&Live| !live.requests.is_over() && live.terms.phase == Phase::Active;
        lock(&self.live).as_ref().filter(active).cloned()
    }

    /// Why it can't be asked, if it was left or failed.
    pub fn trouble(&self) -> Option<String> {
        let health = lock(&self.health);
        health.left.clone().or_else(|| health.failed.as_ref().map(|failed| failed.reason.clone()))
    }

    /// Whether it was left for good.
    pub fn is_left(&self) -> bool {
        lock(&self.health).left.is_some()
    }

    /// Never asks it again.
    pub fn leave(&self, reason: String) {
        *lock(&self.live) = None;
        let mut health = lock(&self.health);
        if health.left.is_none() {
            (self.shared.report)(Event::Left { pool: self.pool, reason: &reason });
            health.left = Some(reason);
        }
    }

    /// Forgets a session that broke.
    pub fn broke(&self, broken: &Live) {
        let mut live = lock(&self.live);
        if live.as_ref().is_some_and(|live| live.made == broken.made) {
            *live = None;
        }
    }

    /// The session, made where there is none. Those who ask while it is being made wait for that one.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn live(&self) -> Result<Live, ProxyError> {
        if let Some(live) = self.connected() {
            return Ok(live);
        }
        let _turn = self.dialling.lock().await;
        if let Some(live) = self.connected() {
            return Ok(live);
        }
        self.may_try()?;
        let made = self.make().await;
        self.note(made)
    }

    /// Keeps session and terms fresh; what fails is noted.
    pub async fn tend(&self) {
        let Ok(live) = self.live().await else { return };
        if live.asked.elapsed() < TERMS_AGE {
            return;
        }
        let fresh = terms(&self.shared, self.pool, &live.requests, &live.key).await;
        let fresh = fresh.map(|terms| Live { terms: Arc::new(terms), asked: Instant::now(), ..live });
        drop(self.note(fresh));
    }

    /// Asks for what was charged of a vault, and begins or goes on with it.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn agree(&self, requests: &Requests, key: &PublicKey) -> Result<(), ProxyError> {
        let path = format!("{}{}", path::VAULTS, self.account.address());
        let vault: VaultTerms = get(requests, &path).await?;
        self.account.attested(*key, vault.floor)?;
        Ok(())
    }

    fn may_try(&self) -> Result<(), ProxyError> {
        let health = lock(&self.health);
        if let Some(reason) = &health.left {
            return Err(ProxyError::Left(reason.clone()));
        }
        match &health.failed {
            Some(Failed { reason, fault, until, .. }) if *until > Instant::now() => {
                Err(ProxyError::Resting { reason: reason.clone(), fault: *fault })
            }
            _ => Ok(()),
        }
    }

    /// Notes how a try ended.
    fn note(&self, made: Result<Live, ProxyError>) -> Result<Live, ProxyError> {
        match &made {
            Ok(live) => {
                lock(&self.health).failed = None;
                *lock(&self.live) = Some(live.clone());
            }
            Err(error) if error.is_final() => self.leave(error.to_string()),
            Err(error) => {
                (self.shared.report)(Event::Failed { pool: self.pool, error });
                let mut health = lock(&self.health);
                let pause = health.failed.as_ref().map_or(PAUSES.0, |failed| failed.next);
                let (until, next) = (Instant::now() + pause, (pause * 2).min(PAUSES.1));
                let (reason, fault) = (error.to_string(), error.is_peer_fault());
                health.failed = Some(Failed { reason, fault, until, next });
                *lock(&self.live) = None;
            }
        }
        made
    }

    async fn make(&self) -> Result<Live, ProxyError> {
        let Visited { requests, key, terms, .. } = visit(&self.shared, self.pool, &self.endpoint()).await?;
        if terms.phase != Phase::Active {
            return Err(ProxyError::Phase(phase(terms.phase)));
        }
        self.agree(&requests, &key).await?;
        let now = Instant::now();
        Ok(Live { requests, key, terms: Arc::new(terms), made: now, asked: now })
    }
}

/// A proxy that was appraised and whose terms are those of the chain; nothing was allowed to it.
pub struct Visited {
    /// Sends.
    pub requests: Requests,
    /// What it was proved to be.
    pub peer: Peer,
    /// Attested; signs uses and receipts.
    pub key: PublicKey,
    /// What it offers.
    pub terms: Terms,
}

/// Goes to the proxy of a pool.
///
/// # Errors
/// [`ProxyError`].
pub async fn visit(shared: &Shared, pool: Address, endpoint: &str) -> Result<Visited, ProxyError> {
    let tcp = reach(endpoint).await?;
    // Requests are written whole; waiting for more to send would only delay them.
    let _ = tcp.set_nodelay(true);
    let attested = ratls::connect(tcp, &shared.me, &shared.verifier, &shared.wanted).await;
    let attested = attested.map_err(|error| ClientError::from_connect(endpoint, error))?;
    let peer = attested.peer().clone();
    (shared.report)(Event::Attested { pool, peer: &peer });
    let end = End::new(shared.me.clone()).verifying(shared.verifier.clone(), shared.wanted.clone());
    let (requests, driver) = ratls::session::open(attested, end, shared.stop.clone());
    let report = shared.report.clone();
    tokio::spawn(async move { report(Event::Ended { pool, ended: &driver.await }) });
    let key = session_key(&peer)?;
    let terms = terms(shared, pool, &requests, &key).await?;
    Ok(Visited { requests, peer, key, terms })
}

/// Terms, held against the chain and the attested key.
async fn terms(
    shared: &Shared,
    pool: Address,
    requests: &Requests,
    key: &PublicKey,
) -> Result<Terms, ProxyError> {
    let terms: Terms = get(requests, path::TERMS).await?;
    let pairs = [
        ("session_key", terms.session_key.to_string(), hex::encode(key.to_bytes())),
        ("global_id", terms.global_id.to_string(), shared.global_id.to_string()),
        ("pool", terms.pool.to_string(), pool.to_string()),
        ("root", terms.root.to_string(), shared.root.to_string()),
    ];
    match pairs.into_iter().find(|(_, found, expected)| found != expected) {
        None => Ok(terms),
        Some((field, found, expected)) => Err(ProxyError::Terms { field, found, expected }),
    }
}

/// The key that its evidence names for vouchers.
fn session_key(peer: &Peer) -> Result<PublicKey, ProxyError> {
    let named = peer.keys().get(SESSION_KEY).and_then(|key| <[u8; 32]>::try_from(key).ok());
    let key = named.ok_or_else(|| ProxyError::Key("no 32 bytes of that name".into()))?;
    PublicKey::from_bytes(&key).map_err(|error: VoucherError| ProxyError::Key(error.to_string()))
}

/// A word for people.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "not registered yet",
        Phase::Active => "active",
        Phase::Over => "over",
    }
}

/// A short body of a proxy's, read and checked.
///
/// # Errors
/// [`ProxyError`].
pub async fn get<T: market::Body>(requests: &Requests, path: &str) -> Result<T, ProxyError> {
    let (status, body) = fetch(requests, path, T::LIMIT).await?;
    if status != StatusCode::OK {
        return Err(ProxyError::Status { path: path.into(), found: status.to_string() });
    }
    Ok(market::read(&body)?)
}

/// Status and body of a GET.
///
/// # Errors
/// [`ProxyError`].
pub async fn fetch(requests: &Requests, path: &str, limit: usize) -> Result<(StatusCode, Bytes), ProxyError> {
    let failed = |source| ProxyError::Request { path: path.into(), source };
    let request = Request::get(path).body(Empty::<Bytes>::new()).map_err(|error| failed(error.into()))?;
    let asked = timeout(SHORT, async {
        let response = requests.send(request).await.map_err(failed)?;
        let status = response.status();
        // A byte beyond the limit is enough for the reader to see that it is too long.
        let body = Limited::new(response.into_body(), limit + 1).collect().await;
        let found = || ProxyError::Status { path: path.into(), found: "with a body that broke off".into() };
        Ok((status, body.map_err(|_| found())?.to_bytes()))
    });
    let found = format!("not within {} s", SHORT.as_secs());
    asked.await.unwrap_or(Err(ProxyError::Status { path: path.into(), found }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole before its lock is given back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
