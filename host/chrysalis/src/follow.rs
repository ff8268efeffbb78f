//! Trust that follows its files: a release that is taken out of the reference values, or fresh collateral, counts within seconds.

use crate::trust::Target;
use crate::wanted::WantedArgs;
use anyhow::Result;
use client::Trust;
use ratls::Verifier;
use std::fs::metadata;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Between two looks at the files.
const PAUSE: Duration = Duration::from_secs(2);

/// What came of files that changed.
pub enum Followed {
    /// They count now.
    Replaced,
    /// They don't read, for this reason; what counted before still does.
    Kept(String),
}

/// Looks after the files of `target` for as long as it is polled, and has `verifier` follow them.
pub async fn follow(
    target: Target,
    wanted: WantedArgs,
    verifier: Arc<Verifier>,
    tell: impl Fn(Followed) + Send,
) -> Result<()> {
    let files = target.files()?;
    let mut seen = stamps(&files);
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = stamps(&files);
        if now == seen {
            continue;
        }
        seen = now;
        let (target, wanted) = (target.clone(), wanted.clone());
        let read = tokio::task::spawn_blocking(move || read(&target, &wanted)).await?;
        match read {
            Ok(trust) => {
                verifier.replace(trust);
                tell(Followed::Replaced);
            }
            Err(error) => tell(Followed::Kept(format!("{error:#}"))),
        }
    }
}

fn read(target: &Target, wanted: &WantedArgs) -> Result<Trust> {
    let mut trust = target.trust()?;
    // Whom one wants was said once: a release that has left the reference values must not keep them from counting.
    wanted.equip(&mut trust)?;
    Ok(trust)
}

/// When each file was written, and how long it is; a file that is gone for a moment has neither.
fn stamps(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp =
        |path: &PathBuf| metadata(path).ok().and_then(|data| Some((data.modified().ok()?, data.len())));
    files.iter().map(stamp).collect()
}
