//! Reads the handoff disk.

use anyhow::{Context, Result};
use protocol::handoff::{Handoff, MAX_SIZE};
use protocol::names::HANDOFF_DISK_SERIAL;
use std::io::Read;
use std::time::Duration;
use verity::{Disk, Places};

const LIMIT: Duration = Duration::from_secs(10);

/// Both parts of the configuration, as bytes; at most [`MAX_SIZE`] bytes of the disk are read.
pub(crate) fn read(places: &Places) -> Result<Handoff> {
    let disk = Disk::wait(places, HANDOFF_DISK_SERIAL, LIMIT)?;
    let mut bytes = Vec::new();
    disk.open()?.take(MAX_SIZE as u64).read_to_end(&mut bytes).with_context(|| disk.label.clone())?;
    Handoff::from_disk(&bytes).with_context(|| {
        format!("{}: not a handoff disk; the launcher writes one for each guest", disk.label)
    })
}
