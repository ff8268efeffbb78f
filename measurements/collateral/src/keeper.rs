//! What a running node asks: collateral that holds now, from memory, disk or the service, in that order.
//!
//! ```text
//! collateral(quote, now):  memory -> disk -> service      the first that holds; the network only where nothing does
//! refresh(now):            service, for what is due       a failure leaves what is held
//! ```
//! What is fetched replaces what is held only if it is genuine for a quote of the platform, and not older.

use crate::schedule::Copy;
use crate::{FetchError, Service, Store, StoreError};
use evidence::{Collateral, PlatformId, Policy, genuine, show_time};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Most platforms held at once: a relying party meets those that its peers show it, and peers may show anything.
const MAX_PLATFORMS: usize = 256;

/// Where collateral came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Held since an earlier question.
    Memory,
    /// Kept by an earlier process.
    Disk,
    /// Asked for just now.
    Service,
}

/// Collateral that holds, with what is known about its renewal.
#[derive(Debug, Clone)]
pub struct Held {
    /// The collateral.
    pub collateral: Arc<Collateral>,
    /// Where it came from.
    pub origin: Origin,
    /// When the first of its parts expires, Unix seconds.
    pub expires: u64,
    /// When it should be renewed, Unix seconds.
    pub due: u64,
    /// Why the last attempt to renew it failed, if it did.
    pub trouble: Option<String>,
}

/// How a renewal went.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// Of which platforms.
    pub platform: PlatformId,
    /// When what is held now expires, Unix seconds.
    pub expires: u64,
    /// Why what is held was not renewed, if it was not.
    pub trouble: Option<String>,
}

/// Why there is no collateral.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The quote does not say of which platform it is.
    #[error("collateral: {0}; expected a TDX quote with its PCK certificate")]
    Quote(String),
    /// Nothing is held, and there is no service to ask.
    #[error(
        "collateral for {platform}: none at hand that holds at {at}, and no service is set; give a service or a bundle"
    )]
    Offline {
        /// For which platforms.
        platform: PlatformId,
        /// The time.
        at: String,
    },
    /// Nothing is held, and the service did not help.
    #[error("collateral for {platform}: none at hand that holds at {at}: {trouble}")]
    Unavailable {
        /// For which platforms.
        platform: PlatformId,
        /// The time.
        at: String,
        /// Why.
        trouble: String,
    },
    /// Nothing is held, and what the service answered is not genuine for the quote at that time.
    #[error("collateral for {platform}: what the service answered is refused at {at}: {why}")]
    Refused {
        /// For which platforms.
        platform: PlatformId,
        /// The time.
        at: String,
        /// Which check failed, and why.
        why: String,
        /// What it answered, for a verdict that shows every check.
        collateral: Box<Collateral>,
    },
}

/// Why the service did not help.
enum Failure {
    /// Nothing that can be read came.
    Fetch(FetchError),
    /// What came may not be used.
    Refused(String, Box<Collateral>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Fetch(error) => error.fmt(f),
            Failure::Refused(why, _) => why.fmt(f),
        }
    }
}

/// Keeps collateral for the platforms that it is asked about.
#[derive(Debug)]
pub struct Keeper {
    service: Option<Service>,
    store: Option<Store>,
    policy: Policy,
    entries: BTreeMap<PlatformId, Entry>,
}

#[derive(Debug)]
struct Entry {
    collateral: Arc<Collateral>,
    copy: Copy,
    trouble: Option<String>,
    /// A quote of the platform, to hold new collateral against.
    quote: Vec<u8>,
}

impl Keeper {
    /// `service`: none works offline; `store`: none keeps nothing between processes. The policy's root is what collateral
    /// must be signed under.
    pub fn new(service: Option<Service>, store: Option<Store>, policy: Policy) -> Self {
        Keeper { service, store, policy, entries: BTreeMap::new() }
    }

    /// Collateral for this quote's platform that holds at `now` (Unix seconds). The service is asked only where neither
    /// memory nor disk has it, so that its outage stops nothing that is held.
    pub fn collateral(&mut self, quote: &[u8], now: u64) -> Result<Held, KeeperError> {
        let platform = PlatformId::of_quote(quote).map_err(KeeperError::Quote)?;
        if self.entries.get(&platform).is_some_and(|entry| entry.copy.holds(now)) {
            return self.held(&platform, Origin::Memory, now);
        }
        let mut trouble = Vec::new();
        match self.from_disk(&platform, quote, now) {
            Ok(true) => return self.held(&platform, Origin::Disk, now),
            Ok(false) => {}
            Err(why) => trouble.push(format!("the copy on disk: {why}")),
        }
        match self.from_service(&platform, quote, now) {
            None => {}
            Some(Ok(())) => return self.held(&platform, Origin::Service, now),
            Some(Err(Failure::Fetch(error))) => trouble.push(error.to_string()),
            Some(Err(Failure::Refused(why, collateral))) => {
                return Err(KeeperError::Refused { platform, at: show_time(now), why, collateral });
            }
        }
        if trouble.is_empty() {
            return Err(KeeperError::Offline { platform, at: show_time(now) });
        }
        Err(KeeperError::Unavailable { platform, at: show_time(now), trouble: trouble.join("; ") })
    }

    /// Renews everything that is due; to be called now and then, beside the work. What can't be renewed is kept.
    pub fn refresh(&mut self, now: u64) -> Vec<Refreshed> {
        let due = self.entries.iter().filter(|(_, entry)| entry.copy.due() <= now);
        let due: Vec<_> = due.map(|(platform, entry)| (*platform, entry.quote.clone())).collect();
        due.into_iter().filter_map(|(platform, quote)| self.renew(platform, &quote, now)).collect()
    }

    /// When [`Keeper::refresh`] next has something to do, Unix seconds.
    pub fn next_refresh(&self) -> Option<u64> {
        self.entries.values().map(|entry| entry.copy.due()).min()
    }

    fn renew(&mut self, platform: PlatformId, quote: &[u8], now: u64) -> Option<Refreshed> {
        let outcome = self.from_service(&platform, quote, now)?;
        let entry = self.entries.get_mut(&platform)?;
        let trouble = outcome.err().map(|failure| failure.to_string());
        // After a success stands there what the disk said, if anything.
        if let Some(why) = &trouble {
            entry.copy = entry.copy.after_failure(now);
            entry.trouble = Some(why.clone());
        }
        Some(Refreshed { platform, expires: entry.copy.expires, trouble })
    }

    fn from_disk(&mut self, platform: &PlatformId, quote: &[u8], now: u64) -> Result<bool, String> {
        let Some(store) = &self.store else { return Ok(false) };
        let Some(stored) = store.load(platform).map_err(|e: StoreError| e.to_string())? else {
            return Ok(false);
        };
        // Of the future: the clock went wrong, then or now, and says nothing of the age. Looked after at once.
        let fetched = if stored.fetched > now { 0 } else { stored.fetched };
        self.adopt(platform, quote, stored.collateral, fetched, now).map(|()| true).map_err(|(why, _)| why)
    }

    fn from_service(&mut self, platform: &PlatformId, quote: &[u8], now: u64) -> Option<Result<(), Failure>> {
        let fetched = self.service.as_ref()?.fetch(platform).map_err(Failure::Fetch);
        Some(fetched.and_then(|collateral| {
            self.adopt(platform, quote, collateral, now, now)
                .map_err(|(why, collateral)| Failure::Refused(why, Box::new(collateral)))?;
            let (Some(store), Some(entry)) = (&self.store, self.entries.get_mut(platform)) else {
                return Ok(());
            };
            // A full disk is no reason to refuse what was fetched; it is told.
            entry.trouble = store.save(platform, &entry.collateral, now).err().map(|e| e.to_string());
            Ok(())
        }))
    }

    /// When it expires, if it may stand in the place of what is held; else why not.
    fn admissible(
        &self,
        platform: &PlatformId,
        quote: &[u8],
        collateral: &Collateral,
        now: u64,
    ) -> Result<u64, String> {
        genuine(quote, collateral, &self.policy, now)?;
        if let Some(entry) = self.entries.get(platform).filter(|entry| entry.copy.holds(now)) {
            not_older(&entry.collateral, collateral)?;
        }
        collateral.expires().ok_or_else(|| "it has no end".into())
    }

    /// Takes collateral in the place of what is held, or gives it back with the reason.
    fn adopt(
        &mut self,
        platform: &PlatformId,
        quote: &[u8],
        collateral: Collateral,
        fetched: u64,
        now: u64,
    ) -> Result<(), (String, Collateral)> {
        let expires = match self.admissible(platform, quote, &collateral, now) {
            Ok(expires) => expires,
            Err(why) => return Err((why, collateral)),
        };
        if !self.entries.contains_key(platform) && self.entries.len() == MAX_PLATFORMS {
            let first = self
                .entries
                .iter()
                .min_by_key(|(_, entry)| entry.copy.expires)
                .map(|(platform, _)| *platform);
            first.and_then(|platform| self.entries.remove(&platform));
        }
        let copy = Copy::fresh(fetched, expires);
        let entry = Entry { collateral: Arc::new(collateral), copy, trouble: None, quote: quote.to_vec() };
        self.entries.insert(*platform, entry);
        Ok(())
    }

    fn held(&self, platform: &PlatformId, origin: Origin, now: u64) -> Result<Held, KeeperError> {
        let offline = || KeeperError::Offline { platform: *platform, at: show_time(now) };
        let entry = self.entries.get(platform).ok_or_else(offline)?;
        Ok(Held {
            collateral: entry.collateral.clone(),
            origin,
            expires: entry.copy.expires,
            due: entry.copy.due(),
            trouble: entry.trouble.clone(),
        })
    }
}

/// Document by document and CRL by CRL, issued no earlier: an old copy, still valid, could hide a TCB recovery or a
/// revocation.
fn not_older(held: &Collateral, new: &Collateral) -> Result<(), String> {
    const DATED: [&str; 4] = ["TCB info", "QE identity", "root CA CRL", "PCK CRL"];
    let issued = |collateral: &Collateral, what: &str| {
        collateral.documents()?.iter().find(|document| document.what == what).map(|document| document.from)
    };
    for what in DATED {
        let (held, new) = (issued(held, what), issued(new, what));
        if new < held {
            let show = |at: Option<u64>| at.map_or_else(|| "never".into(), show_time);
            return Err(format!(
                "{what} was issued {}, older than the one held, of {}",
                show(new),
                show(held)
            ));
        }
    }
    Ok(())
}
