//! The first service of the guest: the gate that a daemon starts behind.
//!
//! ```text
//! chrysalis-init boot      entropy -> modules -> GPU driver, if the image has one -> lockdown -> handoff
//!                          -> quote shows MRCONFIGID -> network -> models -> GPUs -> RTMR3 sealed
//!                          -> configuration and files left for the daemon -> module loading locked
//! chrysalis-init daemon    becomes the daemon of the measured role
//! chrysalis-init announce  the daemon answers: tell the host, then pass on what the daemon says of its peers, tell health and
//!                          drain when ordered to
//! chrysalis-init failed    something failed: tell the host what (the service manager then powers off)
//! chrysalis-init modules   only the module loading of `boot`, for what must run before it
//! ```
//! `boot` either finishes with everything in place or leaves a reason in `/run/chrysalis/failure` and fails; no daemon
//! starts then. What it reads from the host (handoff disk, model disks, network) is believed only as far as MRCONFIGID
//! and the model pins reach.
//!
//! Deliberately absent: options, secrets, any way on after a failure.

mod boot;
mod configured;
mod control;
mod daemon;
mod drivers;
mod entropy;
mod failure;
mod gpu;
mod handoff;
mod lockdown;
mod models;
mod netlink;
mod network;
mod port;
mod relay;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["boot"] => boot::run(),
        ["modules"] => boot::load_modules(),
        ["daemon"] => match daemon::run()? {},
        ["announce"] => relay::announce(),
        ["failed"] => failure::report(),
        other => bail!("expected one of `boot`, `modules`, `daemon`, `announce`, `failed`, found {other:?}"),
    }
}
