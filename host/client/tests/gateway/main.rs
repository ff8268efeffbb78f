//! The gateway over proxies of this process: real sessions of a SIMULATED platform, real books, real disks, lies where a
//! test wants them.

mod attacks;
mod chain;
mod clients;
mod crash;
mod fake;
mod life;
mod real;
mod rig;
