//! `chrysalis reproduce`: rebuild a release in a clean root, compare everything, state that it is the same.
//!
//! ```text
//! RELEASE ---> published measurements ----------------------------------+
//! --kit -----> kit --+                                                  v
//! mirrors ---> kit --+--> clean root --> artifacts --> measurements --> equal to the byte? --> signed statement
//!                                                                       no --> what, where, from which package
//! ```
//! A statement is written only where the rebuilt measurements equal the published ones to the byte. Nothing of the kit is
//! trusted (see `builder::kit`); what is trusted is this host, this program and the tools of the host that it names.

mod document;
pub mod http;
mod rebuilt;
mod table;

use crate::image::show;
use crate::input::read;
use crate::output::{Outcome, facts};
use crate::release_cmd::{files, keys};
use crate::trust::now;
use anyhow::{Context, Result, ensure};
use builder::kit::{self, Kit, What};
use builder::reproduce::{Differs, Rebuild};
use builder::{Checkout, Progress};
use measure::Digest256;
use release::{Measurements, SigningKey, Statement};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use table::Row;

/// Options of `reproduce`.
#[derive(clap::Args)]
pub struct Args {
    /// The release: its `*.measurements.json`, or a folder with it (a draft, or a publication with one release or --release).
    published: PathBuf,
    /// Which release of a publication, such as `worker-0.1.0`.
    #[arg(long)]
    release: Option<release::ReleaseId>,
    /// Source kit: a folder, or the address of one (http:// or https://). Without it the source comes from this clone and
    /// everything else from the mirrors.
    #[arg(long)]
    kit: Option<String>,
    /// Folder to work in, new or empty; nothing in it is removed afterwards. `reproduce-RELEASE` if absent.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Folder with the files of the published build: on a difference, its bytes are looked into.
    #[arg(long)]
    artifacts: Option<PathBuf>,
    /// Folder with firmware that the tools do not bring.
    #[arg(long)]
    firmware: Option<PathBuf>,
    /// The rebuilder's private key (PKCS#8 PEM, Ed25519): a statement is written to the work folder, if all is equal.
    #[arg(long)]
    key: Option<PathBuf>,
}

/// Rebuilds and compares. Exit code 1 where anything differs.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let (shown, bytes) = document::find(&args.published, args.release.as_ref())?;
    let published = Measurements::parse(&shown, &bytes)?;
    let id = published.id()?;
    // Before anything long begins.
    ensure!(
        published.models.is_empty() || args.key.is_none(),
        "{shown}: the release names model disks, and those are not rebuilt: nothing can be stated of them; leave --key away"
    );
    let key = args.key.as_deref().map(keys::read_one).transpose()?;
    let profile = published.profile.parse().with_context(|| format!("{shown}: profile"))?;
    let began = Instant::now();
    let work = args.work.clone().unwrap_or_else(|| format!("reproduce-{id}").into());
    let work = builder::reproduce::clean(&work)?;
    let kit = kit(args, &published, &work)?;
    tell(format!("rebuilding {id} of commit {} in {}", published.commit, work.display()));
    let rebuild = builder::reproduce::rebuild(&kit, &work.join("root"), profile, &mut show)?;
    tell("foretelling the registers of every machine".into());
    let rebuilt = rebuilt::measurements(&published, &rebuild, args.firmware.as_deref())?;
    let equal = rebuilt.to_bytes()? == bytes;
    let differs = if equal { Vec::new() } else { details(args, &rebuild, &work)? };
    let statement = match &key {
        Some(key) if equal => Some(sign(&id, &bytes, key, &work)?),
        _ => None,
    };
    let whole = began.elapsed();
    let report =
        Report { id: id.to_string(), kit: &kit, rebuild: &rebuild, equal, differs, statement, whole };
    report.print(&table::rows(&published, &rebuilt), json)?;
    Ok(if equal { Outcome::Fine } else { Outcome::Mismatch })
}

/// The kit: given, fetched, or made from this clone and the mirrors with a cache that begins empty.
fn kit(args: &Args, published: &Measurements, work: &Path) -> Result<Kit> {
    let kit = match &args.kit {
        Some(address) if address.contains("://") => {
            kit::fetch(&http::KitServer::new(address)?, &work.join("kit"), &mut show)?
        }
        Some(folder) => Kit::open(Path::new(folder))?,
        None => {
            tell("no --kit: source from this clone, everything else from the mirrors".into());
            let checkout = Checkout::find()
                .context("without --kit the source comes from a clone: change into one, or give --kit")?;
            let checkout = checkout.with_cache(&work.join("downloads"));
            kit::make(&checkout, &What::Commit(published.commit.clone()), &work.join("kit"), &mut show)?
        }
    };
    ensure!(
        kit.index().commit == published.commit,
        "the kit is of commit {}, the release of {}: get the release's own kit",
        kit.index().commit,
        published.commit
    );
    Ok(kit)
}

/// On a difference: the bytes and packages, where the published files are at hand.
fn details(args: &Args, rebuild: &Rebuild, work: &Path) -> Result<Vec<Differs>> {
    let Some(theirs) = &args.artifacts else { return Ok(Vec::new()) };
    let scratch = work.join("differences");
    builder::reproduce::compare(&rebuild.artifacts, theirs, &rebuild.tools, &scratch)
}

fn sign(id: &release::ReleaseId, bytes: &[u8], key: &SigningKey, work: &Path) -> Result<PathBuf> {
    let (target, statement) = Statement::sign(id, Digest256::of(bytes), now(), key)?;
    let path = work.join(target);
    files::write(&path, &statement)?;
    // Read back as a consumer would.
    Statement::verify(&path.display().to_string(), &read(&path)?, &[key.public()])?;
    Ok(path)
}

fn tell(text: String) {
    show(Progress { step: "rebuild", text });
}

/// What came of it.
struct Report<'a> {
    id: String,
    kit: &'a Kit,
    rebuild: &'a Rebuild,
    equal: bool,
    differs: Vec<Differs>,
    statement: Option<PathBuf>,
    whole: Duration,
}

impl Report<'_> {
    fn print(&self, rows: &[Row], json: bool) -> Result<()> {
        let (unpacking, building) =
            (self.rebuild.unpacking.as_secs_f64(), self.rebuild.building.as_secs_f64());
        let value = json!({
            "release": self.id, "equal": self.equal, "kit": self.kit.index().id(), "rows": rows,
            "differences": self.differs, "statement": self.statement, "artifacts": self.rebuild.artifacts.dir(),
            "seconds": { "whole": self.whole.as_secs_f64(), "unpacking": unpacking, "building": building },
        });
        facts(json, &value, || {
            let mut text = table::human(rows);
            for one in &self.differs {
                text += &format!("{one}\n");
            }
            text += &format!("unpacked in {unpacking:.1} s, built in {building:.1} s\n");
            text + &self.verdict()
        })
    }

    fn verdict(&self) -> String {
        match (self.equal, &self.statement) {
            (true, Some(path)) => format!("EQUAL: {}; statement in {}", self.id, path.display()),
            (true, None) => format!("EQUAL: {}; give --key to write a statement", self.id),
            (false, _) if self.differs.is_empty() => format!(
                "NOT EQUAL: nothing signed; the rebuild is kept in {}; give --artifacts (the published files) to see \
                 which bytes",
                self.rebuild.artifacts.dir().display()
            ),
            (false, _) => {
                format!(
                    "NOT EQUAL: nothing signed; the rebuild is kept in {}",
                    self.rebuild.artifacts.dir().display()
                )
            }
        }
    }
}
