//! Opens the pinned model disks under dm-verity and mounts them read-only.

use anyhow::{Context, Result, ensure};
use protocol::config::ModelPin;
use protocol::names::MODEL_DISK_SERIAL_PREFIX;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::path::Path;
use std::time::Duration;
use verity::open::{self, ModelDisk};
use verity::{Disk, Places, RootHash};

const LIMIT: Duration = Duration::from_secs(10);

/// Opens every pin, in order, at `RUN/models/NAME`; `opened` is called after each, with the root that it was opened under.
pub(crate) fn open_all(
    places: &Places,
    run: &Path,
    pins: &[ModelPin],
    mut opened: impl FnMut(&ModelPin, &RootHash) -> Result<()>,
) -> Result<()> {
    check_names(pins)?;
    for (index, pin) in pins.iter().enumerate() {
        let root = open_one(places, run, index, pin).with_context(|| format!("model `{}`", pin.name))?;
        opened(pin, &root)?;
    }
    Ok(())
}

fn open_one(places: &Places, run: &Path, index: usize, pin: &ModelPin) -> Result<RootHash> {
    let disk = Disk::wait(places, &format!("{MODEL_DISK_SERIAL_PREFIX}{index}"), LIMIT)?;
    let root = RootHash::parse("static configuration, models.root", &pin.root)?;
    let model = ModelDisk { root, data_blocks: pin.data_blocks };
    let device = open::model(places, &disk, &format!("model{index}"), &model)?;
    let at = run.join("models").join(&pin.name);
    fs::create_dir_all(&at).with_context(|| format!("cannot make {}", at.display()))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(&device, &at, "erofs", flags, None).with_context(|| {
        format!(
            "{}: cannot mount it as erofs; pack the model folder again and pin what that prints",
            disk.label
        )
    })?;
    Ok(root)
}

/// A name becomes a folder of its own: no two alike, none that starts with a dot.
fn check_names(pins: &[ModelPin]) -> Result<()> {
    for (index, pin) in pins.iter().enumerate() {
        ensure!(
            !pin.name.starts_with('.'),
            "models[{index}].name: expected a name that starts with no dot, found `{}`; rename the pin",
            pin.name
        );
        let twin = pins[..index].iter().any(|other| other.name == pin.name);
        ensure!(
            !twin,
            "models[{index}].name: expected each name once, found `{}` again; rename the pin",
            pin.name
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(names: &[&str]) -> Vec<ModelPin> {
        let pin = |name: &&str| ModelPin { name: (*name).into(), root: "00".repeat(32), data_blocks: 1 };
        names.iter().map(pin).collect()
    }

    #[test]
    fn names_that_are_no_folder_of_their_own_are_refused() {
        check_names(&pins(&["a", "b.c"])).unwrap();
        for bad in [["a", ".."], ["a", "."], [".b", "a"], ["a", "a"]] {
            assert!(check_names(&pins(&bad)).is_err(), "accepted {bad:?}");
        }
    }
}
