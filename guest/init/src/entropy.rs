//! Seeds the kernel's random pool from the CPU, and makes sure that this was possible.
//!
//! In a TD the CPU's own generator is the only source that the host can't see or choose. The kernel credits it at boot
//! (`random.trust_cpu`); here RDSEED output is mixed in once more before any key is made, and a CPU without RDSEED and
//! RDRAND is refused. A virtio-rng device may add to the pool; it is never relied on.
//!
//! Spec: Intel SDM volume 1, section 7.3.17 (RDRAND and RDSEED).

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{Read, Write};

/// 512 bits, twice what the kernel's generator holds.
const WORDS: usize = 8;
/// RDSEED may run dry for a moment; this many tries take well under a second.
const TRIES: usize = 100_000;
const DEVICE: &str = "/dev/random";

/// Mixes RDSEED output into the kernel's pool and waits until the pool is initialised.
pub(crate) fn mix() -> Result<()> {
    let (rdseed, rdrand) = (is_x86_feature_detected!("rdseed"), is_x86_feature_detected!("rdrand"));
    ensure!(
        rdseed && rdrand,
        "CPU: expected RDSEED and RDRAND, found rdseed={rdseed} rdrand={rdrand}; \
         give the guest a CPU model that has both"
    );
    let mut pool = File::options().read(true).write(true).open(DEVICE).context(DEVICE)?;
    for _ in 0..WORDS {
        let word = (0..TRIES)
            .find_map(|_| cpu::rdseed())
            .context("CPU: RDSEED gives no numbers; is the CPU defect?")?;
        pool.write_all(&word.to_ne_bytes()).context(DEVICE)?;
    }
    // Reading blocks until the kernel calls its generator initialised.
    pool.read_exact(&mut [0; 1]).context(DEVICE)
}

/// Fresh bytes that nobody can foretell.
pub(crate) fn fresh<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open(DEVICE).and_then(|mut f| f.read_exact(&mut bytes)).context(DEVICE)?;
    Ok(bytes)
}

#[allow(unsafe_code, reason = "RDSEED is a CPU instruction; the intrinsic demands proof that the CPU has it")]
mod cpu {
    //! The one unsafe call of this crate.

    use std::arch::x86_64::_rdseed64_step;

    /// One word from the CPU's noise source, if one is ready.
    pub(super) fn rdseed() -> Option<u64> {
        if !is_x86_feature_detected!("rdseed") {
            return None;
        }
        let mut word = 0;
        // SAFETY: the CPU has the instruction, as was just checked; it writes to `word` only.
        let ready = unsafe { _rdseed64_step(&mut word) };
        (ready == 1).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_bytes_differ() {
        assert_ne!(fresh::<32>().unwrap(), fresh::<32>().unwrap());
    }

    #[test]
    fn rdseed_words_differ_where_the_cpu_has_it() {
        let words: Vec<u64> = (0..TRIES).filter_map(|_| cpu::rdseed()).take(2).collect();
        match words.as_slice() {
            [a, b] => assert_ne!(a, b),
            _ => assert!(!is_x86_feature_detected!("rdseed"), "RDSEED gave no numbers"),
        }
    }
}
