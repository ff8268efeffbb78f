//! Reference values that come from a publication, and how they stay fresh while the daemon runs.
//!
//! ```text
//! handed over (the host's) --\                       /--> Verifier::replace: peers that come, and those that are here
//!                             Keeper <-- Refresher --+--> Clock::raise: what was signed has been
//! mirror (runtime) ----------/                       \--> Reporter: fresh, stale, lapsed
//! ```
//! What is handed over spares a boot the mirror: it is verified like everything from there, and counts until its end. A mirror
//! that is gone makes it stale; at its end nothing is accepted any more, and who was here is let go.
//!
//! Deliberately absent: any memory across restarts (`docs/decisions/0032-time-where-the-host-sets-the-clock.md`).

use crate::trust::TrustError;
use crate::{Clock, Reporter};
use protocol::progress;
use ratls::{GpuTrust, Trust, Verifier};
use release::{Anchor, Bundle, Http, Keeper, Limits, Mirror, Refresher, Standing, SystemClock};
use std::sync::{Arc, OnceLock};

/// What was measured of a publication, and what was handed over of it.
#[derive(Debug)]
pub struct Published {
    anchor: Anchor,
    handed: Bundle,
    not_before: u64,
}

impl Published {
    /// Reads both. The first root must be the one that was measured; the rest may be old, and is then replaced.
    pub fn read(settings: &str, handed: &[u8], not_before: u64) -> Result<Self, TrustError> {
        let (anchor, handed) = (Anchor::parse(settings)?, Bundle::from_bytes(handed)?);
        release::Trusted::new(anchor.root, &handed.first_root()?)?;
        Ok(Published { anchor, handed, not_before })
    }

    /// A verifier that follows the publication. Without a mirror nothing is renewed: what was handed over counts until its end.
    pub(crate) fn keep(
        self,
        trust: Trust,
        clock: Arc<Clock>,
        mirror: Option<&str>,
        reporter: Reporter,
    ) -> Result<Arc<Verifier>, TrustError> {
        let Published { anchor, mut handed, not_before } = self;
        let counter = SystemClock::start();
        let source: Box<dyn Mirror> = match mirror {
            Some(address) => {
                let http = Http::new(&format!("http://{address}"), Limits::default());
                Box::new(http.map_err(release::ReleaseError::from)?)
            }
            None => Box::new(handed.clone()),
        };
        let names = anchor.names.clone();
        let all = names.clone();
        let mut keeper = Keeper::open(anchor, &handed.first_root()?, source, None, counter.now())?;
        keeper.not_earlier_than(not_before, counter.now());
        // What was handed over may be old or not whole: the mirror is asked at once, and how it stands is told.
        let _ = keeper.start_from(&mut handed, counter.now());
        let now = keeper.published(counter.now());
        let mut told = Told { reporter, last: None };
        // Floors are added to what was measured, not to what was published before.
        let measured = trust.policy.clone();
        let published = move |held: Trust, now: &release::Published| {
            let policy = measured.tightened(&now.floors_of(&names));
            // Its settings were taken when the measured policy was read; floors are beside what is checked there.
            let gpu = held.gpu.map(|gpu| match gpu.policy.clone().with(policy.gpu().clone()) {
                Ok(policy) => GpuTrust { policy, ..gpu },
                Err(_) => gpu,
            });
            Trust { reference: now.reference_of(&names), policy, gpu, ..held }
        };
        let trust = published(trust, &now);
        // The thread goes with the verifier, which nothing else would stop.
        let thread: Arc<OnceLock<Renewal>> = Arc::default();
        let (kept, ticking) = (thread.clone(), clock.clone());
        let verifier = Arc::new(Verifier::new(trust, move || {
            let _ = &kept;
            ticking.now()
        }));
        let follower = Arc::downgrade(&verifier);
        let mut last = (now.reference_of(&all), now.floors_of(&all));
        let refresher = Refresher::spawn(keeper, counter, move |now| {
            clock.raise(now.issued.unwrap_or(0));
            let Some(verifier) = follower.upgrade() else { return };
            let new = (now.reference_of(&all), now.floors_of(&all));
            // Every replacement has each session judged again.
            if last != new {
                verifier.replace(published(Trust::clone(&verifier.trust()), &now));
                last = new;
            }
            told.tell(&now);
        });
        // It is set once.
        let _ = thread.set(Renewal(Some(refresher.map_err(TrustError::Thread)?)));
        Ok(verifier)
    }
}

/// The thread that renews. A mirror that hangs must not hold up a daemon that stops.
struct Renewal(Option<Refresher>);

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Some(refresher) = self.0.take() {
            refresher.leave();
        }
    }
}

/// What the host was told last; what has not changed is no news.
struct Told {
    reporter: Reporter,
    last: Option<(progress::Standing, u32, Option<&'static str>)>,
}

impl Told {
    fn tell(&mut self, published: &release::Published) {
        let (standing, until) = match &published.standing {
            Standing::Fresh { until } => (progress::Standing::Fresh, *until),
            Standing::Stale { until, .. } => (progress::Standing::Stale, *until),
            Standing::Lapsed { .. } => (progress::Standing::Lapsed, 0),
        };
        let releases = published.releases.as_ref().map_or(0, |releases| releases.releases().len());
        let accepted = u32::try_from(releases).unwrap_or(u32::MAX);
        let now = (standing, accepted, published.trouble);
        if self.last.replace(now) == Some(now) {
            return;
        }
        eprintln!("publication: {accepted} release(s) accepted; {}", published.standing);
        for aside in published.releases.iter().flat_map(|releases| releases.set_aside()) {
            eprintln!("publication: {} is set aside: {}", aside.release, aside.why);
        }
        self.reporter.published(standing, accepted, until, published.trouble);
    }
}
