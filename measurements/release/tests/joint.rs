//! The publisher and k rebuilders, or nothing.

mod support;

use release::{AcceptedReleases, Anchor, ReleaseError, State, Version, name};
use support::*;

fn verify(publisher: &Publisher, anchor: &Anchor) -> AcceptedReleases {
    try_verify(publisher, anchor, publisher.now).unwrap()
}

fn try_verify(publisher: &Publisher, anchor: &Anchor, now: u64) -> Result<AcceptedReleases, ReleaseError> {
    let trusted = refresh(publisher, now)?;
    AcceptedReleases::verify(anchor, &trusted, &mut publisher.mirror.clone(), now)
}

/// The only reason why nothing was accepted.
fn why(accepted: &AcceptedReleases) -> String {
    assert!(accepted.releases().is_empty(), "{:?}", accepted.releases());
    assert_eq!(accepted.set_aside().len(), 1, "{:?}", accepted.set_aside());
    accepted.set_aside()[0].why.clone()
}

#[test]
fn three_rebuilders_are_enough_for_two_and_not_for_four() {
    let mut publisher = Publisher::new();
    let measurements = publisher.release([0, 1, 0], &REBUILDERS[..3]);
    let accepted = verify(&publisher, &anchor(&publisher, 2));
    let [release] = accepted.releases() else { panic!("{accepted:?}") };
    assert_eq!(release.rebuilders(), public(&REBUILDERS[..3]));
    assert_eq!(release.measurements(), &measurements);
    let reference = accepted.reference("worker", publisher.now).unwrap();
    assert_eq!(reference.releases.len(), 1);
    assert!(reference.releases[0].name.starts_with("worker 0.1.0, 2 vCPU"), "{}", reference.releases[0].name);
    let refused = why(&verify(&publisher, &anchor(&publisher, 4)));
    assert!(refused.contains("3 rebuilders") && refused.contains("expected 4"), "{refused}");
}

#[test]
fn a_publisher_without_rebuilders_is_refused_and_rebuilders_he_names_himself_count_for_nothing() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &[77, 78, 79]);
    assert!(why(&verify(&publisher, &anchor(&publisher, 1))).contains("has said nothing"));
    assert_eq!(verify(&publisher, &anchor(&publisher, 0)).releases().len(), 1);
}

#[test]
fn statements_over_other_measurements_do_not_count() {
    let mut publisher = Publisher::new();
    let ours = measurements("worker", [0, 1, 0], 1);
    let theirs = measurements("worker", [0, 1, 0], 2);
    let id = ours.id().unwrap();
    let mut files = files_of(&ours, State::Active, &REBUILDERS[..1]);
    files.push(statement(&id, &theirs.to_bytes().unwrap(), REBUILDERS[1]));
    publisher.publish(files);
    let refused = why(&verify(&publisher, &anchor(&publisher, 2)));
    assert!(refused.contains("1 rebuilders") && refused.contains("came to"), "{refused}");
}

#[test]
fn one_rebuilder_twice_is_one_rebuilder() {
    let mut publisher = Publisher::new();
    let ours = measurements("worker", [0, 1, 0], 1);
    let id = ours.id().unwrap();
    let (_, bytes) = statement(&id, &ours.to_bytes().unwrap(), REBUILDERS[0]);
    let mut files = files_of(&ours, State::Active, &REBUILDERS[..1]);
    // The first one's statement again, where the second one's would stand.
    files.push((release::statement_target(&id, &key(REBUILDERS[1]).public()), bytes));
    publisher.publish(files);
    let refused = why(&verify(&publisher, &anchor(&publisher, 2)));
    assert!(refused.contains("1 rebuilders") && refused.contains("keyid"), "{refused}");
    let twice = public(&[20, 20]);
    let text = format!(
        "schema=1\nroot=\"{}\"\nthreshold=2\nnames=[\"worker\"]\nrebuilders=[\"{}\",\"{}\"]",
        "00".repeat(32),
        twice[0],
        twice[1]
    );
    assert!(Anchor::parse(&text).unwrap_err().to_string().contains("each once"));
}

#[test]
fn a_key_of_the_publisher_is_no_rebuilder() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &[TARGETS, REBUILDERS[0]]);
    let mut anchor = anchor(&publisher, 2);
    anchor.rebuilders = public(&[TARGETS, REBUILDERS[0]]);
    let refused = why(&verify(&publisher, &anchor));
    assert!(refused.contains("is a key of the publisher"), "{refused}");
}

#[test]
fn a_release_that_names_other_measurements_than_the_targets_is_refused() {
    let mut publisher = Publisher::new();
    let ours = measurements("worker", [0, 1, 0], 1);
    let theirs = measurements("worker", [0, 1, 0], 2);
    let id = ours.id().unwrap();
    let mut files = files_of(&ours, State::Active, &REBUILDERS);
    files.retain(|(target, _)| !target.ends_with(name::MEASUREMENTS));
    files.push((id.target(name::MEASUREMENTS), theirs.to_bytes().unwrap()));
    publisher.publish(files);
    assert!(why(&verify(&publisher, &anchor(&publisher, 2))).contains("the targets say"));
}

#[test]
fn one_release_under_the_name_of_another_is_refused() {
    let mut publisher = Publisher::new();
    let old = measurements("worker", [0, 1, 0], 1);
    let files = files_of(&old, State::Active, &REBUILDERS).into_iter();
    let renamed = files.map(|(target, bytes)| (target.replace("0.1.0", "0.2.0"), bytes)).collect();
    publisher.publish(renamed);
    assert!(why(&verify(&publisher, &anchor(&publisher, 2))).contains("speaks of worker-0.1.0"));
}

#[test]
fn a_release_of_another_name_never_becomes_a_reference_of_this_one() {
    let mut publisher = Publisher::new();
    let proxy = measurements("proxy", [0, 1, 0], 1);
    publisher.publish(files_of(&proxy, State::Active, &REBUILDERS));
    let mut anchor = anchor(&publisher, 2);
    assert!(verify(&publisher, &anchor).releases().is_empty());
    anchor.names = vec!["worker".into(), "proxy".into()];
    let accepted = verify(&publisher, &anchor);
    assert_eq!(accepted.reference("proxy", T0).unwrap().releases.len(), 1);
    assert_eq!(accepted.reference("worker", T0).unwrap().releases, []);
}

#[test]
fn a_revoked_release_is_refused_with_the_reason_and_so_are_its_registers_elsewhere() {
    let mut publisher = Publisher::new();
    let bad = measurements("worker", [0, 1, 0], 9);
    publisher.publish(files_of(&bad, State::Active, &REBUILDERS));
    let anchor = anchor(&publisher, 2);
    assert_eq!(verify(&publisher, &anchor).releases().len(), 1);
    // The publisher alone revokes: the statements stay what they are.
    let document = document(&bad, State::Revoked).to_bytes().unwrap();
    publisher.publish(vec![(bad.id().unwrap().target(name::RELEASE), document)]);
    assert_eq!(why(&verify(&publisher, &anchor)), "revoked: a hole in the engine");
    let again = measurements("worker", [0, 2, 0], 9);
    publisher.publish(files_of(&again, State::Active, &REBUILDERS));
    let accepted = verify(&publisher, &anchor);
    assert!(accepted.releases().is_empty());
    assert!(accepted.set_aside().iter().any(|aside| aside.why.contains("those of a revoked release")));
}

#[test]
fn deprecated_old_and_outdated_releases_follow_the_settings() {
    let mut publisher = Publisher::new();
    let old = measurements("worker", [0, 1, 0], 1);
    publisher.publish(files_of(&old, State::Deprecated, &REBUILDERS));
    let mut anchor = anchor(&publisher, 2);
    assert_eq!(verify(&publisher, &anchor).releases().len(), 1);
    anchor.minimum = [("worker".to_owned(), Version([0, 1, 1]))].into();
    assert!(why(&verify(&publisher, &anchor)).contains("older than 0.1.1"));
    anchor.minimum.clear();
    anchor.accept_deprecated = false;
    assert!(why(&verify(&publisher, &anchor)).contains("deprecated"));
    anchor.accept_deprecated = true;
    let mut document = document(&old, State::Active);
    document.valid_from = evidence::show_time(T0 + DAY);
    document.valid_until = evidence::show_time(T0 + 200 * DAY);
    publisher.lives = Lives([300 * DAY; 3]);
    publisher.publish(vec![(old.id().unwrap().target(name::RELEASE), document.to_bytes().unwrap())]);
    let at = |passed| try_verify(&publisher, &anchor, T0 + passed).unwrap();
    assert!(why(&at(DAY - 1)).contains("valid from"));
    assert_eq!(at(DAY).releases().len(), 1);
    assert!(why(&at(200 * DAY)).contains("its validity ended"));
}

#[test]
fn what_was_accepted_ends_with_its_metadata() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let accepted = verify(&publisher, &anchor(&publisher, 2));
    assert_eq!(accepted.valid_until(), T0 + DAY);
    assert!(accepted.reference("worker", T0 + DAY - 1).is_ok());
    let lapsed = accepted.reference("worker", T0 + DAY).unwrap_err();
    assert!(lapsed.to_string().contains("refresh them"));
}

#[test]
fn a_withheld_or_exchanged_target_fails_the_whole() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let anchor = anchor(&publisher, 2);
    let files = publisher.files();
    for path in files.keys().filter(|path| path.starts_with("targets/")) {
        let mut withheld = files.clone();
        withheld.remove(path);
        publisher.set_files(withheld);
        let error = try_verify(&publisher, &anchor, T0).unwrap_err();
        assert!(matches!(error, ReleaseError::Missing { .. }), "{path}: {error}");
        let mut flipped = files.clone();
        flipped.get_mut(path).unwrap()[20] ^= 1;
        publisher.set_files(flipped);
        let error = try_verify(&publisher, &anchor, T0).unwrap_err();
        assert!(matches!(error, ReleaseError::Mismatch { field: "SHA-256", .. }), "{path}: {error}");
        assert!(error.is_peer_fault());
    }
}
