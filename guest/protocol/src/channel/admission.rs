//! Proof of work before a quote is made, when quotes are in short supply.
//!
//! ```text
//! SHA-256( field "chrysalis/admission/1" | field exporter | u64 solution )  begins with `difficulty` zero bits
//! ```
//! The exporter is new on every connection and known to nobody before its handshake, so a solution can't be made
//! beforehand, used twice or sold. The responder keeps nothing but the number that it demanded.

use measure::codec::put;
use sha2::{Digest, Sha256};

const TAG: &[u8] = b"chrysalis/admission/1";
/// Most bits that are demanded, and that an initiator is willing to find: about a million hashes.
pub const MAX_DIFFICULTY: u32 = 20;
/// Bits at which the demand begins.
const MIN_DIFFICULTY: u32 = 8;

/// What a queue of `capacity` places with `waiting` of them taken demands: nothing while less than a quarter is taken, so
/// that those who do no work never fill it, then more with each place.
pub fn difficulty(waiting: usize, capacity: usize) -> u32 {
    let free = capacity / 4;
    if waiting < free || capacity <= free {
        return 0;
    }
    let (above, range) = ((waiting - free).min(capacity - free), capacity - free);
    let span = (MAX_DIFFICULTY - MIN_DIFFICULTY) as usize;
    MIN_DIFFICULTY + u32::try_from(above * span / range).unwrap_or(0)
}

fn prefix(exporter: &[u8; 32]) -> Sha256 {
    let mut head = Vec::new();
    put(&mut head, TAG);
    put(&mut head, exporter);
    Sha256::new().chain_update(head)
}

fn zero_bits(prefix: &Sha256, solution: u64) -> u32 {
    let hash = prefix.clone().chain_update(solution.to_be_bytes()).finalize();
    let front = hash.iter().take(8).fold(0_u64, |front, byte| front << 8 | u64::from(*byte));
    front.leading_zeros()
}

/// Whether this solution is worth that many bits on the connection with this exporter.
pub fn solves(exporter: &[u8; 32], solution: u64, difficulty: u32) -> bool {
    zero_bits(&prefix(exporter), solution) >= difficulty
}

/// The smallest solution; takes 2 to the power of `difficulty` hashes on average. More bits than [`MAX_DIFFICULTY`] are
/// not looked for.
pub fn solve(exporter: &[u8; 32], difficulty: u32) -> Option<u64> {
    if difficulty > MAX_DIFFICULTY {
        return None;
    }
    let prefix = prefix(exporter);
    (0..u64::MAX).find(|solution| zero_bits(&prefix, *solution) >= difficulty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solution_holds_for_its_connection_alone() {
        let (one, other) = ([1; 32], [2; 32]);
        let solution = solve(&one, 10).unwrap();
        assert!(solves(&one, solution, 10));
        assert_eq!((0..solution).find(|less| solves(&one, *less, 10)), None);
        // One in a thousand other connections would take it by chance; this one does not.
        assert!(!solves(&other, solution, 10));
    }

    #[test]
    fn endless_work_is_not_done() {
        assert_eq!(solve(&[0; 32], MAX_DIFFICULTY + 1), None);
    }

    #[test]
    fn demand_rises_with_the_queue() {
        let demands: Vec<u32> = (0..=64).map(|waiting| difficulty(waiting, 64)).collect();
        assert!(demands[..16].iter().all(|bits| *bits == 0));
        assert_eq!((demands[16], demands[64]), (MIN_DIFFICULTY, MAX_DIFFICULTY));
        assert!(demands.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((difficulty(1000, 64), difficulty(0, 0)), (MAX_DIFFICULTY, 0));
    }
}
