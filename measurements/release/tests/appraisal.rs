//! From a publication to a verdict: SIMULATED evidence of a machine, held against what was accepted and nothing else.

mod support;

use evidence::{Inputs, Policy, Reference, Verdict};
use release::{AcceptedReleases, Measurements, State, Tuple, name};
use simulator::fault::{Case, Fault};
use support::*;

/// The release that the simulated machine runs.
fn release_of(case: &Case) -> Measurements {
    let shown = &case.reference.releases[0];
    let mut measurements = measurements("worker", [0, 1, 0], 1);
    measurements.machines[0].registers = Tuple {
        mrtd: shown.mrtd,
        rtmr0: shown.rtmr0,
        rtmr1: shown.rtmr1,
        rtmr2: shown.rtmr2,
        rtmr3: shown.rtmr3,
    };
    measurements
}

/// What a consumer of the publication says of the machine.
fn verdict(publisher: &Publisher, case: &Case) -> Verdict {
    let trusted = refresh(publisher, publisher.now).unwrap();
    let mut mirror = publisher.mirror.clone();
    let anchor = anchor(publisher, 2);
    let accepted = AcceptedReleases::verify(&anchor, &trusted, &mut mirror, publisher.now).unwrap();
    judged(case, &accepted.reference("worker", publisher.now).unwrap())
}

fn judged(case: &Case, reference: &Reference) -> Verdict {
    evidence::verify(&Inputs {
        quote: &case.evidence.quote,
        collateral: &case.collateral,
        policy: &Policy::simulated(&case.root_der).unwrap(),
        event_log: Some(&case.evidence.event_log),
        static_config: Some(&case.evidence.static_config),
        runtime: Some(&case.evidence.runtime),
        reference: Some(reference),
        report_data: Some(&case.report_data),
        at: case.at,
    })
}

#[test]
fn a_machine_is_accepted_by_the_release_it_runs_and_no_longer_once_that_is_revoked() {
    let case = Fault::None.case().unwrap();
    let release = release_of(&case);
    let mut publisher = Publisher::new();
    publisher.publish(files_of(&release, State::Active, &REBUILDERS[..2]));
    let accepted = verdict(&publisher, &case);
    assert!(accepted.accepted, "{accepted}");
    let document = document(&release, State::Revoked).to_bytes().unwrap();
    publisher.publish(vec![(release.id().unwrap().target(name::RELEASE), document)]);
    let revoked = verdict(&publisher, &case);
    assert!(!revoked.accepted && revoked.to_string().contains("registers"), "{revoked}");
}

#[test]
fn a_machine_of_a_release_that_rebuilders_did_not_reach_is_refused() {
    let case = Fault::None.case().unwrap();
    let mut publisher = Publisher::new();
    publisher.publish(files_of(&release_of(&case), State::Active, &REBUILDERS[..1]));
    assert!(!verdict(&publisher, &case).accepted);
}

#[test]
fn registers_of_two_published_machines_mixed_are_refused() {
    let case = Fault::None.case().unwrap();
    let mut release = release_of(&case);
    let mut other = release.machines[0].clone();
    // Each register of the machine stands in the release, but in no one tuple.
    let foreign = measure::Digest384([9; 48]);
    release.machines[0].registers.rtmr1 = foreign;
    other.registers.rtmr2 = foreign;
    release.machines.push(other);
    let mut publisher = Publisher::new();
    publisher.publish(files_of(&release, State::Active, &REBUILDERS));
    assert!(!verdict(&publisher, &case).accepted);
}
