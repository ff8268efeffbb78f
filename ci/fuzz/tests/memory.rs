//! A lying length does not make a parser allocate: the most that each target holds at once is bounded.
//!
//! One test in a program of its own, because the allocator counts for the whole process.

use fuzz::{Edit, TARGETS, edited};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Lengths, counts and offsets that promise more than is there.
const LIES: [u64; 4] = [0x00ff_ffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
/// Places of a seed that are lied about, evenly spread over its front, where headers are, and its end.
const PLACES: usize = 96;
const FRONT: usize = 768;

#[test]
fn no_lie_in_a_seed_makes_a_parser_take_more_than_its_bound() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        let largest = seeds.iter().map(Vec::len).max().unwrap_or_default();
        for seed in &seeds {
            for place in 0..PLACES {
                let front = place * FRONT.min(seed.len()) / PLACES;
                let end = seed.len() - 1 - front.min(seed.len() - 1);
                for (lie, width) in LIES.iter().flat_map(|lie| [(*lie, 4), (*lie, 8)]) {
                    for at in [front, end] {
                        let input = edited(seed, &[Edit::Word(at, lie, width)]);
                        let before = MEMORY.current_usage();
                        MEMORY.reset_peak_usage();
                        (target.run)(&input);
                        let taken = MEMORY.peak_usage().saturating_sub(before);
                        let bound = target.memory + 8 * largest;
                        assert!(taken <= bound, "{}: {taken} bytes for {lie:#x} at {at}", target.name);
                    }
                }
            }
        }
    }
}
