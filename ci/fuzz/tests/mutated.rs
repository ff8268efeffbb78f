//! Every target takes its seeds, and no edit of a seed makes it panic.

use fuzz::{Edit, TARGETS, Target, edited};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Edited inputs a target is fed in one run; the fuzzer goes on where this stops.
const CASES: u32 = 192;

#[test]
fn every_seed_is_accepted_by_its_target() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}: no seeds", target.name);
        for (i, seed) in seeds.iter().enumerate() {
            assert!((target.run)(seed), "{}: seed {i} of {} bytes was refused", target.name, seed.len());
        }
    }
}

#[test]
fn targets_have_names_of_their_own() {
    for target in TARGETS {
        assert_eq!(TARGETS.iter().filter(|other| other.name == target.name).count(), 1, "{}", target.name);
        assert!(Target::named(target.name).is_some());
    }
}

#[test]
fn no_edit_of_a_seed_makes_a_parser_panic() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let inputs = (0..seeds.len(), proptest::collection::vec(edit(), 1..6));
        let outcome = TestRunner::new(config).run(&inputs, |(seed, edits)| {
            (target.run)(&edited(&seeds[seed], &edits));
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", target.name));
    }
}

/// Words that lengths and counts are compared with, and their neighbours, more often than any others.
fn word() -> impl Strategy<Value = u64> {
    let edges = [0u64, 1, 7, 0x7f, 0xff, 0xfff, 0x1000, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];
    prop_oneof![
        3 => proptest::sample::select(edges.to_vec()),
        2 => (proptest::sample::select(edges.to_vec()), 0u64..9).prop_map(|(edge, less)| edge.wrapping_sub(less)),
        1 => any::<u64>(),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<usize>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, value)| Edit::Byte(at, value)),
        4 => (at(), word(), proptest::sample::select(vec![2usize, 4, 8]))
            .prop_map(|(at, value, width)| Edit::Word(at, value, width)),
        1 => at().prop_map(Edit::Cut),
        2 => (at(), at(), at()).prop_map(|(from, to, len)| Edit::Copy(from, to, len)),
        2 => (at(), at()).prop_map(|(at, len)| Edit::Repeat(at, len)),
    ]
}
