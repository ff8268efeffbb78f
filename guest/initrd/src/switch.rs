//! Makes the mounted root the root of the whole system and starts its init.

use rustix::mount::mount_move;
use rustix::process::{chdir, chroot};
use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Moves `/dev`, `/proc` and `/sys` into `root`, moves `root` onto `/`, and executes `init` there. Returns only on
/// failure.
pub(crate) fn to(root: &str, init: &str) -> Result<Infallible, String> {
    for api in ["/dev", "/proc", "/sys"] {
        mount_move(api, format!("{root}{api}")).map_err(|e| {
            format!("cannot move {api} into the root: {e}; expected the root image to have {api}")
        })?;
    }
    let step = |what: &'static str| move |e: rustix::io::Errno| format!("cannot switch root ({what}): {e}");
    chdir(root).map_err(step("chdir"))?;
    mount_move(".", "/").map_err(step("move"))?;
    chroot(".").map_err(step("chroot"))?;
    chdir("/").map_err(step("chdir to /"))?;
    // The kernel's environment (TERM, and words of the command line that it did not know) is not handed on. The one
    // variable that is set keeps systemd from taking options out of the EFI variable SystemdOptions, which the host may
    // write and nobody measures.
    let error = Command::new(init).env_clear().env("SYSTEMD_EFI_OPTIONS", "").exec();
    Err(format!("cannot start {init}: {error}; expected it in the root image"))
}
