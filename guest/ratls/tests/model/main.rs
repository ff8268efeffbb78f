//! A model of the channel's exchange, checked exhaustively: every scenario, every wiring of its ends, every order of steps.
//!
//! ```text
//! terms.rs      messages as terms, and what can be left out of them
//! world.rs      honest ends, the attacker (Dolev-Yao, with machines, keys and secrets of his own), every next state
//! search.rs     breadth first, the claims, the trace of an attack
//! scenarios.rs  who takes part
//! ```
//! That the model finds nothing is worth as much as what it finds when a field is missing, so both are tested: with the
//! protocol as it is no claim breaks, and each field is missed by somebody. docs/decisions/0025 says what is not in the model.

mod scenarios;
mod search;
mod terms;
mod world;

use protocol::channel::{self, pair_allowed};
use search::{Attack, Explored, explore};
use terms::Part;
use terms::{Bound, Field, Without};
use world::Scenario;

/// Every scenario under every power of the attacker.
fn everything() -> Vec<(&'static str, Scenario)> {
    let with = |scenario: &Scenario| {
        scenarios::powers().into_iter().map({
            let scenario = scenario.clone();
            move |(power, stolen, leaks)| (power, Scenario { stolen, leaks, ..scenario.clone() })
        })
    };
    scenarios::all().iter().flat_map(with).collect()
}

/// The scenarios under one power, by its place in [`scenarios::powers`].
fn under(power: usize) -> Vec<Scenario> {
    let (_, stolen, leaks) = scenarios::powers().swap_remove(power);
    scenarios::all().into_iter().map(|s| Scenario { stolen: stolen.clone(), leaks, ..s }).collect()
}

/// The first attack on a protocol without these fields.
fn attack(power: usize, fields: &[Field], about: &str) -> Option<(&'static str, Attack)> {
    let attacked = |s: &Scenario| explore(s, Without::of(fields), about).err().map(|attack| (s.name, attack));
    under(power).iter().find_map(attacked)
}

#[test]
fn no_claim_breaks_in_the_protocol_as_it_is() {
    let mut sum = Explored::default();
    for (power, scenario) in everything() {
        match explore(&scenario, Without::default(), "") {
            Ok(Explored { wirings, states }) => {
                println!("{}, {power}: {wirings} wirings, {states} states", scenario.name);
                sum = Explored { wirings: sum.wirings + wirings, states: sum.states + states };
            }
            Err(Attack { claim, trace }) => {
                panic!("{}, {power}: {claim}\n  {}", scenario.name, trace.join("\n  "))
            }
        }
    }
    println!("together: {} wirings, {} states", sum.wirings, sum.states);
    assert!(sum.states > 4_000, "the scenarios have shrunk to {} states", sum.states);
}

/// What each field is there for: without it and those beside it there is an attack of that kind, with it there is none, for
/// an attacker with these powers. A field with others beside it says the same as they do; only all of them together may go.
const NEEDED: [(Field, &[Field], usize, &str); 13] = [
    (Field::Exporter, &[], 2, "agreement"),
    (Field::Nonce, &[], 3, "freshness"),
    (Field::Identity, &[], 3, "identity"),
    (Field::Direction, &[], 0, "agreement"),
    (Field::ApplicationKeys, &[], 3, "identity"),
    (Field::Gpu, &[], 3, "agreement"),
    (Field::Release, &[], 0, "release"),
    (Field::Accepted, &[], 0, "key confirmation"),
    (Field::ResponderKey, &[Field::Exporter], 0, "agreement"),
    (Field::AttesterPart, &[Field::ChallengeWants], 3, "no diversion"),
    (Field::ChallengeWants, &[Field::AttesterPart], 3, "no diversion"),
    (Field::VerifierPart, &[Field::ChallengeFrom], 3, "agreement"),
    (Field::ChallengeFrom, &[Field::VerifierPart], 3, "agreement"),
];

#[test]
fn each_field_stops_an_attack_that_is_found_without_it() {
    for field in Field::ALL.into_iter().filter(|field| *field != Field::Tag) {
        let row = NEEDED.iter().find(|row| row.0 == field);
        let (_, beside, power, about) = row.unwrap_or_else(|| panic!("no attack is named for {field:?}"));
        let safe = attack(*power, beside, about);
        assert!(safe.is_none(), "{field:?} does not stop it: {safe:?}");
        let found = attack(*power, &[beside, &[field][..]].concat(), about);
        let (scenario, Attack { claim, trace }) = found.unwrap_or_else(|| panic!("{field:?} is idle"));
        let beside = if beside.is_empty() { String::new() } else { format!(" and {beside:?}") };
        println!("without {field:?}{beside}: {claim}\n  [{scenario}]\n  {}\n", trace.join("\n  "));
    }
}

#[test]
fn evidence_over_a_key_alone_is_kept_out_by_its_tag_even_if_nothing_else_were_bound() {
    let others = Field::ALL.into_iter().filter(|field| {
        !matches!(field, Field::ResponderKey | Field::Release | Field::Accepted | Field::Tag)
    });
    let others: Vec<Field> = others.collect();
    // With its tag it is never the term that anybody expects, whatever a connection's fields are reduced to.
    let certificate = Bound::Certificate(1).without(Without::of(&others));
    assert_eq!(certificate, Bound::Certificate(1));
    let found = attack(1, &[&others[..], &[Field::Tag]].concat(), "domain");
    let (scenario, Attack { claim, trace }) = found.expect("without tags it is the same hash");
    println!("without Tag and {others:?}: {claim}\n  [{scenario}]\n  {}\n", trace.join("\n  "));
}

/// What the code binds, by the model's names. Does not compile when the code binds something else than this.
fn bound(binding: &channel::Binding<'_>, challenge: &channel::Challenge) -> Vec<Field> {
    let channel::Binding {
        direction: _,
        attester: _,
        verifier: _,
        exporter: _,
        challenge: _,
        responder_key: _,
        keys: _,
        gpu: _,
    } = binding;
    // Release and GPU demand of a challenge are held against evidence, as the release and the GPU evidence are here; a
    // solution is about load.
    let channel::Challenge { nonce: _, from: _, wants: _, identity: _, release: _, gpu: _, solution: _ } =
        challenge;
    Field::ALL.into_iter().filter(|field| !matches!(field, Field::Release | Field::Accepted)).collect()
}

#[test]
fn the_code_binds_what_the_model_binds() {
    let keys = channel::ApplicationKeys::default();
    let challenge = channel::Challenge {
        nonce: [1; 32],
        from: channel::Part::Client,
        wants: channel::Part::Worker,
        release: None,
        identity: None,
        gpu: channel::GpuDemand::None,
        solution: None,
    };
    let digest = challenge.digest();
    let binding = channel::Binding {
        direction: channel::Direction::Responder,
        attester: channel::Part::Worker,
        verifier: channel::Part::Client,
        exporter: &[2; 32],
        challenge: &digest,
        responder_key: b"responder",
        keys: &keys,
        gpu: None,
    };
    let other_digest = channel::Challenge { nonce: [9; 32], ..challenge.clone() }.digest();
    let named = channel::ApplicationKey { name: "session".into(), key: vec![9] };
    let other_keys = channel::ApplicationKeys::new(vec![named]).unwrap();
    let shown = channel::GpuShown { envelope: vec![9], nonce: [9; 32], age_s: 9 };
    let others = [
        channel::Binding { direction: channel::Direction::Initiator, ..binding },
        channel::Binding { attester: channel::Part::Proxy, ..binding },
        channel::Binding { verifier: channel::Part::Proxy, ..binding },
        channel::Binding { exporter: &[9; 32], ..binding },
        channel::Binding { challenge: &other_digest, ..binding },
        channel::Binding { responder_key: b"another", ..binding },
        channel::Binding { keys: &other_keys, ..binding },
        channel::Binding { gpu: Some(&shown), ..binding },
    ];
    for other in &others {
        assert_ne!(other.report_data(), binding.report_data(), "{other:?}");
    }
    // Those eight, with the challenge's four instead of its digest, and the tag.
    assert_eq!(bound(&binding, &challenge).len(), others.len() - 1 + 4 + 1);
}

#[test]
fn every_pair_of_parts_that_may_talk_is_in_a_scenario() {
    let parts = [
        (Part::Client, channel::Part::Client),
        (Part::Proxy, channel::Part::Proxy),
        (Part::Worker, channel::Part::Worker),
        (Part::Service, channel::Part::Service),
    ];
    let dials = |from: Part, to: Part| {
        let dialled = |end: &world::End| {
            end.direction == terms::Direction::Initiator
                && end.part == from
                && end.wants.is_some_and(|wanted| wanted.part == to)
        };
        scenarios::all().iter().any(|scenario| scenario.ends.iter().any(dialled))
    };
    for (from, initiator) in parts {
        for (to, responder) in parts {
            let (allowed, covered) = (pair_allowed(initiator, responder), dials(from, to));
            assert_eq!(allowed, covered, "{from:?} to {to:?}");
        }
    }
}
