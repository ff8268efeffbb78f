//! One vault in use: caps are signed here, and leave only once what they allow is on disk.
//!
//! ```text
//! sign: Client::request, order (in memory) -> persist (one write for all who wait) -> both leave
//! ```
//! A crash between the two allows what nobody got: the limit of the day counts it, the proxy never does.

use super::keep::{Keep, KeepError};
use payment::client::{Client, Ledger, Limits};
use payment::price::{Price, Tokens};
use payment::receipt::Receipt;
use payment::view::VaultView;
use payment::{Address, Cap, Order, PublicKey, Refused, SecretKey, Signed, Use};
use protocol::market::Most;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why no cap was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A limit, or the vault.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

/// A vault, its channel key, and what was allowed of it.
pub struct Account {
    address: Address,
    keep: Arc<Keep>,
    state: Mutex<State>,
    /// Who has it writes; the number is of the newest state on disk.
    written: tokio::sync::Mutex<u64>,
}

struct State {
    client: Client,
    view: Option<VaultView>,
    /// The session's key, and the requests that are open in it.
    session: Option<PublicKey>,
    open: BTreeSet<u64>,
    /// Grows with each change that must be kept.
    version: u64,
}

/// Numbers for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What is kept.
    pub ledger: Ledger,
    /// As the chain proves it.
    pub view: Option<VaultView>,
    /// Requests that wait for a receipt.
    pub open: usize,
}

/// A request whose cap has not left; dropped, it is open no longer.
struct Unsigned<'a>(&'a Account, u64);

impl Drop for Unsigned<'_> {
    fn drop(&mut self) {
        self.0.refused(self.1);
    }
}

impl Account {
    /// With what was kept about it.
    pub fn new(
        global_id: i32,
        address: Address,
        key: SecretKey,
        limits: Limits,
        keep: Keep,
        ledger: Ledger,
    ) -> Self {
        let client = Client::new(global_id, address, key, limits, ledger);
        let state = State { client, view: None, session: None, open: BTreeSet::new(), version: 0 };
        Self { address, keep: Arc::new(keep), state: Mutex::new(state), written: tokio::sync::Mutex::new(0) }
    }

    /// The vault.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Takes a proven view.
    pub fn on_vault(&self, view: VaultView) {
        let mut state = self.state();
        state.client.on_vault(view);
        state.view = Some(view);
    }

    /// Begins with an attested session. While requests are open in a session of the same key it goes on instead.
    ///
    /// # Errors
    /// [`Refused::Overcharged`] for a floor that this client never allowed.
    pub fn attested(&self, key: PublicKey, floor: u64) -> Result<(), Refused> {
        let mut state = self.state();
        if state.session == Some(key) && !state.open.is_empty() {
            return Ok(());
        }
        state.client.attested(key, floor)?;
        state.session = Some(key);
        state.open.clear();
        Ok(())
    }

    /// A cap that covers one more request, and the order that says which; what they allow is on disk.
    ///
    /// # Errors
    /// [`SignError`]; then nothing is open.
    pub async fn sign(
        &self,
        id: u64,
        request_hash: [u8; 32],
        price: Price,
        most: &Most,
        now: u64,
    ) -> Result<(Signed<Cap>, Signed<Order>), SignError> {
        let Most { prompt, completion } = *most;
        let (signed, version) = {
            let mut state = self.state();
            let tokens = Tokens { prompt, completion, ..Tokens::default() };
            let cap = state.client.request(id, request_hash, price, &tokens, now)?;
            state.open.insert(id);
            state.version += 1;
            let order = state.client.order(id, prompt, completion)?;
            ((cap, order), state.version)
        };
        // Also where an app goes away while the disk is waited for.
        let unsigned = Unsigned(self, id);
        self.persist(version).await?;
        std::mem::forget(unsigned);
        Ok(signed)
    }

    /// Waits until a state at least as new as `version` is on disk; writes it if nobody else did.
    async fn persist(&self, version: u64) -> Result<(), KeepError> {
        let mut written = self.written.lock().await;
        if *written >= version {
            return Ok(());
        }
        let (ledger, newest) = {
            let state = self.state();
            (state.client.ledger(), state.version)
        };
        let keep = self.keep.clone();
        let saved = tokio::task::spawn_blocking(move || keep.save(&ledger)).await;
        // A thread that dies has written nothing that may be relied on; it can't be told from a disk that fails.
        saved.unwrap_or_else(|_| self.keep.save(&ledger))?;
        *written = newest;
        Ok(())
    }

    /// Writes what changed since. Nothing relies on it: what is lost makes the next limits tighter.
    pub async fn flush(&self) -> Result<(), KeepError> {
        let version = {
            let mut state = self.state();
            state.version += 1;
            state.version
        };
        self.persist(version).await
    }

    /// Checks and books a receipt.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn settle(&self, id: u64, used: &Signed<Use>, receipt: &Signed<Receipt>) -> Result<u64, Refused> {
        let mut state = self.state();
        let charged = state.client.settle(id, used, receipt)?;
        state.open.remove(&id);
        Ok(charged)
    }

    /// The proxy refused the request before it was dispatched.
    pub fn refused(&self, id: u64) {
        let mut state = self.state();
        state.client.refused(id);
        state.open.remove(&id);
    }

    /// No receipt came, and none will.
    pub fn abandon(&self, id: u64) {
        let mut state = self.state();
        state.client.abandon(id);
        state.open.remove(&id);
    }

    /// For people.
    pub fn standing(&self) -> Standing {
        let state = self.state();
        Standing { ledger: state.client.ledger(), view: state.view, open: state.open.len() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before its lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
