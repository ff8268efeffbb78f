//! Trust that follows its files: a release that is taken out of the reference values, or fresh collateral, counts within seconds.
//! Where a publication has the reference values, they follow it instead ([`crate::published`]).

use crate::published::Source;
use crate::trust::Target;
use crate::wanted::WantedArgs;
use anyhow::Result;
use client::Trust;
use protocol::channel::Part;
use ratls::{Verifier, Wanted};
use release::Published;
use std::fs::metadata;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Between two looks at the files.
const PAUSE: Duration = Duration::from_secs(2);

/// What came of files that changed.
pub enum Followed {
    /// They count now.
    Replaced,
    /// They don't read, for this reason; what counted before still does.
    Kept(String),
    /// The publication stands otherwise than before, in these words, with so many accepted releases.
    Published {
        /// Fresh, stale or lapsed, and why.
        standing: String,
        /// How many.
        releases: usize,
    },
}

/// What counts, from files and from a publication; whichever changes, both are taken together.
struct Kept {
    verifier: Arc<Verifier>,
    source: Option<Source>,
    now: Mutex<(Trust, Option<Published>)>,
}

impl Kept {
    fn change(&self, change: impl FnOnce(&mut (Trust, Option<Published>))) {
        // Each change is one assignment, so a poisoned lock guards something whole.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        let trust = now.0.clone();
        self.verifier.replace(match (&self.source, &now.1) {
            (Some(source), Some(published)) => source.apply(trust, published),
            _ => trust,
        });
    }
}

/// A verifier for peers of this part that follows the files, and the publication, that `target` names, for as long as the
/// process runs. Needs a tokio runtime. At first everything must hold; `tell` hears of changes.
pub fn keep(
    target: &Target,
    args: &WantedArgs,
    part: Part,
    tell: impl Fn(Followed) + Send + Sync + 'static,
) -> Result<(Arc<Verifier>, Wanted)> {
    let source = target.source()?;
    let published = source.as_ref().map(|source| source.once(target.fixed_time())).transpose()?;
    let mut trust = target.files_trust()?;
    args.equip(&mut trust)?;
    let mut first = match (&source, &published) {
        (Some(source), Some(published)) => source.apply(trust.clone(), published),
        _ => trust.clone(),
    };
    let wanted = args.resolve(part, &mut first)?;
    let verifier = Arc::new(Verifier::new(first, target.clock()));
    let now = Mutex::new((trust, published));
    let kept = Arc::new(Kept { verifier: verifier.clone(), source, now });
    let tell = Arc::new(tell);
    if let Some(source) = kept.source.as_ref().filter(|_| target.fixed_time().is_none()) {
        let (kept, tell) = (kept.clone(), tell.clone());
        let mut last = None;
        let refresher = source.keep(move |published| {
            let releases = published.releases.as_ref().map_or(0, |releases| releases.releases().len());
            let (standing, mark) = (published.standing.to_string(), (published.trouble, releases));
            kept.change(|now| now.1 = Some(published));
            if last.replace(mark).is_none_or(|last| last != mark) {
                tell(Followed::Published { standing, releases });
            }
        })?;
        // It runs for as long as the process does.
        std::mem::forget(refresher);
    }
    tokio::spawn(follow(target.clone(), args.clone(), kept, tell));
    Ok((verifier, wanted))
}

/// Looks after the files for as long as it is polled.
async fn follow(
    target: Target,
    args: WantedArgs,
    kept: Arc<Kept>,
    tell: Arc<impl Fn(Followed) + Send + Sync>,
) -> Result<()> {
    let files = target.files()?;
    let files: Vec<_> = [files.policy, files.collateral].into_iter().chain(files.reference).collect();
    let mut seen = stamps(&files);
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = stamps(&files);
        if now == seen {
            continue;
        }
        seen = now;
        let (target, args) = (target.clone(), args.clone());
        match tokio::task::spawn_blocking(move || read(&target, &args)).await? {
            Ok(trust) => {
                kept.change(|now| now.0 = trust);
                tell(Followed::Replaced);
            }
            Err(error) => tell(Followed::Kept(format!("{error:#}"))),
        }
    }
}

fn read(target: &Target, args: &WantedArgs) -> Result<Trust> {
    let mut trust = target.files_trust()?;
    // Whom one wants was said once: a release that has left the reference values must not keep them from counting.
    args.equip(&mut trust)?;
    Ok(trust)
}

/// When each file was written, and how long it is; a file that is gone for a moment has neither.
fn stamps(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp =
        |path: &PathBuf| metadata(path).ok().and_then(|data| Some((data.modified().ok()?, data.len())));
    files.iter().map(stamp).collect()
}
