//! `chrysalis release`: make, sign, publish, revoke and verify what the world pins.
//!
//! ```text
//! init ----> keys, first root, an empty publication      (its hash goes into consumers' settings)
//! keygen --> one more key, a rebuilder's
//! draft ---> measurements, release, bill of materials    (a rebuilder drafts from his own build)
//! sign ----> a rebuilder's statement; or one more signature under metadata, wherever the key is
//! publish -> targets, snapshot, timestamp                (without a draft: the timestamp alone, the online job)
//! rotate --> the next root, to be signed and published   revoke -> a release withdrawn, with the reason
//! verify --> what a consumer with these settings accepts, and why not the rest
//! ```

pub mod draft;
pub mod files;
mod init;
mod keygen;
pub mod keys;
mod publish;
mod revoke;
mod rotate;
pub mod sbom;
mod sign;
mod verify;

use crate::output::Outcome;
use anyhow::Result;

/// Subcommands of `release`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make keys, the first root and an empty publication.
    Init(init::Args),
    /// Make one key: of a rebuilder, or for a role that changes hands.
    Keygen(keygen::Args),
    /// Describe a build as a release: measurements of every machine, foretold, and a bill of materials.
    Draft(draft::Args),
    /// State that a rebuild came to these measurements; or add a signature to metadata.
    Sign(sign::Args),
    /// Publish a draft, statements or a new root; without any, renew the timestamp.
    Publish(publish::Args),
    /// Prepare the next root, with other keys for a role.
    Rotate(rotate::Args),
    /// Withdraw a release, with the reason.
    Revoke(revoke::Args),
    /// Verify a publication as a consumer with these settings does.
    Verify(verify::Args),
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Init(args) => init::run(&args, json),
        Command::Keygen(args) => keygen::run(&args, json),
        Command::Draft(args) => draft::run(&args, json),
        Command::Sign(args) => sign::run(&args, json),
        Command::Publish(args) => publish::run(&args, json),
        Command::Rotate(args) => rotate::run(&args, json),
        Command::Revoke(args) => revoke::run(&args, json),
        Command::Verify(args) => verify::run(&args, json),
    }
}
