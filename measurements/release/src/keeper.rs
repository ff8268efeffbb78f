//! Keeps the accepted releases of a running program fresh, and says how things stand.
//!
//! ```text
//!            refresh succeeds                      end of validity
//!   (start) ------------------> Fresh --- fails --> Stale ----------> Lapsed: nothing is accepted
//!      |                          ^                   |                  |
//!      `-- Lapsed                 `-------------------+------------------'   the next refresh that succeeds
//! ```
//! A state machine: time and mirror are passed in, and [`crate::Refresher`] is the thread that drives it. What is held is
//! used until its end whatever the mirror does; after it nothing is, however long the mirror is gone. Both are told.

use crate::accept::AcceptedReleases;
use crate::anchor::Anchor;
use crate::clock::{Clock, Instants};
use crate::error::ReleaseError;
use crate::mirror::{Mirror, MirrorError};
use crate::store::Store;
use crate::tuf::{Expiry, Trusted};
use evidence::{Floors, Reference, show_time};
use measure::Digest256;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// First wait after a failure; it doubles up to the refresh interval.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// How things stand. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "standing", rename_all = "lowercase")]
pub enum Standing {
    /// The last refresh succeeded.
    Fresh {
        /// What is held ends then.
        until: u64,
    },
    /// What is held still holds, but could not be renewed.
    Stale {
        /// What is held ends then.
        until: u64,
        /// Since when it could not be renewed.
        since: u64,
        /// Why.
        why: String,
    },
    /// Nothing is accepted.
    Lapsed {
        /// Why.
        why: String,
    },
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Fresh { until } => write!(f, "fresh, until {}", show_time(*until)),
            Standing::Stale { until, since, why } => {
                let (since, until) = (show_time(*since), show_time(*until));
                write!(f, "stale since {since}, used until {until}: {why}")
            }
            Standing::Lapsed { why } => write!(f, "lapsed, nothing is accepted: {why}"),
        }
    }
}

/// What a program is given: how things stand, and what it may rely on.
#[derive(Debug, Clone)]
pub struct Published {
    /// How things stand.
    pub standing: Standing,
    /// What may be relied on; `None` where nothing may.
    pub releases: Option<Arc<AcceptedReleases>>,
    /// When it was so, Unix seconds.
    pub at: u64,
    /// When the newest of the verified metadata was signed, Unix seconds: it can't be earlier.
    pub issued: Option<u64>,
    /// Why it could not be renewed, as [`ReleaseError::name`] has it.
    pub trouble: Option<&'static str>,
}

impl Published {
    /// What appraisal holds a peer against that must run a release of this name; it accepts nothing where nothing may be
    /// relied on.
    pub fn reference(&self, name: &str) -> Reference {
        self.reference_of(&[name.to_owned()])
    }

    /// The same where the peer may run a release of any of these names.
    pub fn reference_of(&self, names: &[String]) -> Reference {
        let held = names.iter().filter_map(|name| self.releases.as_ref()?.reference(name, self.at).ok());
        let releases = held.flat_map(|reference| reference.releases).collect();
        Reference { schema: 1, releases, mrconfigid: None }
    }

    /// What the accepted releases of these names ask for beyond a consumer's policy, for [`evidence::Policy::tightened`].
    pub fn floors_of(&self, names: &[String]) -> Vec<Floors> {
        let accepted = self.releases.iter().flat_map(|releases| releases.releases());
        let wanted = accepted.filter(|release| names.contains(&release.id().name));
        wanted.map(|release| release.document().floors()).collect()
    }
}

/// Why what is held can't be renewed.
#[derive(Debug, Clone)]
struct Trouble {
    /// Unix seconds.
    since: u64,
    why: String,
    name: &'static str,
}

/// Keeps releases.
pub struct Keeper {
    anchor: Anchor,
    trusted: Trusted,
    mirror: Box<dyn Mirror>,
    store: Option<Store>,
    clock: Clock,
    held: Option<Arc<AcceptedReleases>>,
    trouble: Option<Trouble>,
    store_trouble: Option<String>,
    failures: u32,
    due: Duration,
    /// Targets that the releases held are made of.
    cache: BTreeMap<String, Vec<u8>>,
}

impl Keeper {
    /// Starts from measured settings and the root that they pin. What an earlier run kept is taken first; the mirror is
    /// asked by [`Keeper::refresh`] only.
    pub fn open(
        anchor: Anchor,
        first_root: &[u8],
        mirror: Box<dyn Mirror>,
        store: Option<Store>,
        at: Instants,
    ) -> Result<Self, ReleaseError> {
        anchor.check()?;
        let trusted = Trusted::new(anchor.root, first_root)?;
        let mut clock = Clock::default();
        clock.raise(anchor.not_before()?, at.monotonic);
        let mut keeper = Keeper {
            anchor,
            trusted,
            mirror,
            store,
            clock,
            held: None,
            trouble: None,
            store_trouble: None,
            failures: 0,
            due: at.monotonic,
            cache: BTreeMap::new(),
        };
        keeper.restore(at);
        Ok(keeper)
    }

    /// Floors from the kept metadata, expired or not, and releases if they still hold.
    fn restore(&mut self, at: Instants) {
        let Some(store) = &self.store else { return };
        if let Err(error) = self.start_from(&mut store.mirror(), at) {
            let empty = matches!(&error, ReleaseError::Missing { what, .. } if what == "timestamp.json");
            self.store_trouble = (!empty).then(|| format!("what was kept is left aside: {error}"));
        }
    }

    /// Takes what somebody kept or handed over, verified like everything: floors from its metadata, expired or not, and
    /// releases if they still hold.
    pub fn start_from(&mut self, source: &mut dyn Mirror, at: Instants) -> Result<(), ReleaseError> {
        let outcome = self.trusted.refresh(source, self.clock.now(at), Expiry::Ignore);
        self.clock.published(self.trusted.newest_issued(), at.monotonic);
        let now = self.clock.now(at);
        let mut source = Cached { cache: &mut self.cache, used: BTreeMap::new(), mirror: source };
        if let Ok(releases) = AcceptedReleases::verify(&self.anchor, &self.trusted, &mut source, now) {
            self.cache = source.used;
            self.held = Some(Arc::new(releases));
        }
        outcome
    }

    /// As [`Keeper::refresh`], for whoever acts on it once: a failure is an error.
    pub fn try_refresh(&mut self, at: Instants) -> Result<Published, ReleaseError> {
        self.mirror.begin();
        self.renew(at)?;
        Ok(self.published(at))
    }

    /// Asks the mirror. On a failure, what is held stays until its end.
    pub fn refresh(&mut self, at: Instants) -> Published {
        self.mirror.begin();
        let outcome = self.renew(at);
        let now = self.clock.now(at);
        let interval = Duration::from_secs(self.anchor.refresh_seconds);
        match outcome {
            Ok(()) => {
                (self.trouble, self.failures) = (None, 0);
                // Well before the end, where that is near.
                let left = self.held.as_ref().map_or(0, |held| held.valid_until().saturating_sub(now));
                let half = Duration::from_secs(left / 2).max(FIRST_WAIT);
                self.due = at.monotonic + interval.min(half);
            }
            Err(error) => {
                let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
                self.trouble = Some(Trouble { since, why: error.to_string(), name: error.name() });
                let wait = FIRST_WAIT * (1 << self.failures.min(16));
                self.due = at.monotonic + wait.min(interval);
                self.failures += 1;
            }
        }
        self.published(at)
    }

    fn renew(&mut self, at: Instants) -> Result<(), ReleaseError> {
        let outcome = self.trusted.refresh(self.mirror.as_mut(), self.clock.now(at), Expiry::Enforce);
        self.clock.published(self.trusted.newest_issued(), at.monotonic);
        outcome?;
        let mut source =
            Cached { cache: &mut self.cache, used: BTreeMap::new(), mirror: self.mirror.as_mut() };
        let now = self.clock.now(at);
        let releases = AcceptedReleases::verify(&self.anchor, &self.trusted, &mut source, now)?;
        self.cache = source.used;
        self.held = Some(Arc::new(releases));
        let targets = self.cache.iter().map(|(path, bytes)| (path.clone(), &bytes[..]));
        // A full disk is no reason to refuse what was verified; it is told.
        let saved =
            self.store.as_ref().map_or(Ok(()), |store| store.save(targets.chain(self.trusted.files())));
        self.store_trouble = saved.err().map(|error| error.to_string());
        Ok(())
    }

    /// How things stand at this moment.
    pub fn published(&self, at: Instants) -> Published {
        let now = self.clock.now(at);
        let held = self.held.as_ref().filter(|releases| now < releases.valid_until());
        let why = || self.trouble.as_ref().map_or("the mirror was not asked yet", |t| &t.why).to_owned();
        let standing = match (held, &self.trouble) {
            (Some(releases), None) => Standing::Fresh { until: releases.valid_until() },
            (Some(releases), Some(Trouble { since, why, .. })) => {
                Standing::Stale { until: releases.valid_until(), since: *since, why: why.clone() }
            }
            (None, _) => Standing::Lapsed { why: why() },
        };
        let trouble = self.trouble.as_ref().map(|trouble| trouble.name);
        Published {
            standing,
            releases: held.cloned(),
            at: now,
            issued: self.trusted.newest_issued(),
            trouble,
        }
    }

    /// Learns a lower bound of the time that the caller has verified: of a block, or of collateral. Unix seconds.
    pub fn not_earlier_than(&mut self, at_least: u64, at: Instants) {
        self.clock.raise(at_least, at.monotonic);
    }

    /// On the monotonic counter: when to call [`Keeper::refresh`] next, and no later than what is held ends, or the first
    /// release of it.
    pub fn due(&self, at: Instants) -> Duration {
        let now = self.clock.now(at);
        let Some(held) = &self.held else { return self.due };
        let windows = held.releases().iter().map(|release| release.window().1);
        let ends = windows.chain([held.valid_until()]).filter(|until| *until > now).min();
        ends.map_or(self.due, |ends| self.due.min(at.monotonic + Duration::from_secs(ends - now)))
    }

    /// What is wrong with the store, if anything: rollback protection then ends with this process.
    pub fn store_trouble(&self) -> Option<&str> {
        self.store_trouble.as_deref()
    }

    /// Versions of root, timestamp, snapshot and targets.
    pub fn versions(&self) -> [u64; 4] {
        self.trusted.versions()
    }
}

/// Targets by what they were last time, else from the mirror. Their names carry their hash.
struct Cached<'a> {
    cache: &'a mut BTreeMap<String, Vec<u8>>,
    used: BTreeMap<String, Vec<u8>>,
    mirror: &'a mut dyn Mirror,
}

impl Mirror for Cached<'_> {
    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        let found = match self.cache.get(path) {
            Some(bytes) => Some(bytes.clone()),
            None => self.mirror.fetch(path, max)?,
        };
        if let Some(bytes) = &found {
            // Only what is what it says: the caller will refuse the rest.
            let hash = path.strip_prefix("targets/").and_then(|name| name.split('.').next());
            if hash == Some(Digest256::of(bytes).to_string().as_str()) {
                self.used.insert(path.to_owned(), bytes.clone());
            }
        }
        Ok(found)
    }
}
