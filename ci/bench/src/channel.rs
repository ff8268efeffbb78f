//! The attested channel beside plain rustls with the same key exchange, certificates at both ends, in the same process.
//!
//! ```text
//! world.rs   two SIMULATED machines that attest to each other      plain.rs   the peer: rustls, and nothing after it
//! cost.rs    processor time of a handshake, of a long stream, round trips
//! memory.rs  heap of idle sessions, by end (counting.rs)
//! ```

mod cost;
pub mod counting;
pub mod memory;
pub mod plain;
pub mod world;

use crate::report::Number;
use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// All numbers of the channel.
pub fn measure() -> Result<Vec<Number>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut numbers = runtime.block_on(cost::measure()).context("the channel's costs")?;
    drop(runtime);
    numbers.extend(memory::measure().context("the memory of idle sessions")?);
    Ok(numbers)
}

/// Microseconds that this thread has computed; the time that others computed in between does not count.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
