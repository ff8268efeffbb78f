//! The invariants I1 to I10 under everything that can go wrong, and that they notice when a rule is left out.

mod chain;
mod invariants;
mod world;

use chain::Fault;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use world::{Lie, Op, World};

fn op() -> impl Strategy<Value = Op> {
    let n = 0usize..64;
    let amount = 1u64..2_000;
    prop_oneof![
        3 => prop_oneof![9 => 1u32..3_000, 1 => 86_000u32..100_000].prop_map(|seconds| Op::Tick { seconds }),
        1 => Just(Op::Quit),
        20 => (n.clone(), prop_oneof![3 => Just(0usize), 1 => 0usize..12]).prop_map(|(who, back)| Op::Look { who, back }),
        1 => prop_oneof![2 => Just(0usize), 1 => 1usize..600].prop_map(|cut| Op::Boot { cut }),
        1 => n.clone().prop_map(|boot| Op::Crash { boot }),
        3 => (n.clone(), amount.clone()).prop_map(|(boot, allot)| Op::Register { boot, allot }),
        1 => amount.clone().prop_map(|allot| Op::Rogue { allot }),
        24 => (n.clone(), n.clone(), 1u32..500)
            .prop_map(|(client, boot, tokens)| Op::Request { client, boot, tokens }),
        24 => (n.clone(), n.clone(), any::<u8>(), any::<bool>(), 0u8..4).prop_map(
            |(open, worker, share, cancelled, arrives)| Op::Finish { open, worker, share, cancelled, arrives }),
        1 => n.clone().prop_map(|open| Op::Release { open }),
        1 => n.clone().prop_map(|client| Op::RestartClient { client }),
        8 => (n.clone(), n.clone()).prop_map(|(cap, used)| Op::ClaimVault { cap, used }),
        6 => n.clone().prop_map(|payout| Op::ClaimPool { payout }),
        1 => (n.clone(), amount.clone()).prop_map(|(boot, amount)| Op::GiveBack { boot, amount }),
        1 => n.clone().prop_map(|which| Op::TakeSurplus { which }),
        2 => (any::<u8>(), amount).prop_map(|(what, amount)| Op::Owner { what, amount }),
        1 => n.clone().prop_map(|client| Op::StartClose { client }),
        1 => n.clone().prop_map(|client| Op::FinishClose { client }),
        2 => n.clone().prop_map(|client| Op::Redeploy { client }),
        4 => n.clone().prop_map(|which| Op::Arrive { which }),
        3 => n.prop_map(|which| Op::Replay { which }),
    ]
}

/// A network that works, so that the random steps after it have something to break.
fn story() -> impl Strategy<Value = Vec<Op>> {
    let begin = vec![
        Op::Boot { cut: 0 },
        Op::Register { boot: 0, allot: 1_500 },
        Op::Look { who: 0, back: 0 },
        Op::Look { who: 1, back: 0 },
        Op::Look { who: 2, back: 0 },
        Op::Look { who: 3, back: 0 },
        Op::Look { who: 4, back: 0 },
    ];
    proptest::collection::vec(op(), 30..140).prop_map(move |more| [begin.clone(), more].concat())
}

proptest! {
    #![proptest_config(Config { cases: 96, max_shrink_iters: 400, ..Config::default() })]

    #[test]
    fn invariants_hold_under_crashes_rollbacks_forks_and_rogue_sessions(ops in story()) {
        let held = World::new(Fault::None, Lie::None).run(&ops);
        prop_assert!(held.is_ok(), "{}", held.unwrap_err());
    }

    #[test]
    fn a_broken_tee_takes_no_more_than_caps_and_its_pot(ops in story()) {
        let held = World::new(Fault::None, Lie::StolenKey).run(&ops);
        prop_assert!(held.is_ok(), "{}", held.unwrap_err());
    }
}

/// The first violation in as many stories as it takes, of at most `tries`.
fn violation(fault: Fault, lie: Lie, tries: usize) -> Option<String> {
    let mut runner = TestRunner::deterministic();
    let mut run = || {
        let ops = story().new_tree(&mut runner).expect("a story").current();
        World::new(fault, lie).run(&ops).err()
    };
    (0..tries).find_map(|_| run())
}

#[test]
fn a_rule_left_out_of_a_contract_is_noticed() {
    let faults = [
        (Fault::OnePot, "I"),
        (Fault::NoGrace, "I"),
        (Fault::PaysTwice, "I"),
        (Fault::NoCap, "I"),
        (Fault::AnyKey, "I"),
        (Fault::BounceIgnored, "I2"),
        (Fault::BounceVanishes, "I7"),
        (Fault::Revived, "I10"),
        (Fault::OwnerTakesPots, "I8"),
        (Fault::PartialBurns, "I2"),
    ];
    for (fault, invariant) in faults {
        let found = violation(fault, Lie::None, 300);
        let found = found.unwrap_or_else(|| panic!("{fault:?} was not noticed in 300 stories"));
        eprintln!("{fault:?}: {found}");
        assert!(found.contains(invariant), "{fault:?} broke another invariant: {found}");
    }
}

#[test]
fn a_party_that_breaks_the_rules_is_noticed() {
    for (lie, invariant) in [(Lie::InflatedPot, "I3"), (Lie::NoLog, "I9")] {
        let found = violation(Fault::None, lie, 300);
        let found = found.unwrap_or_else(|| panic!("{lie:?} was not noticed in 300 stories"));
        eprintln!("{lie:?}: {found}");
        assert!(found.contains(invariant), "{lie:?} broke another invariant: {found}");
    }
}

#[test]
fn stories_settle_requests() {
    let mut runner = TestRunner::deterministic();
    let mut settled = 0;
    for _ in 0..10 {
        let ops = story().new_tree(&mut runner).expect("a story").current();
        let mut world = World::new(Fault::None, Lie::None);
        world.run(&ops).expect("an honest story");
        settled += world.settled;
    }
    assert!(settled >= 30, "{settled} requests settled in 10 stories: too few to show anything");
}
