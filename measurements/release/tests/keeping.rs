//! A running consumer: fresh, stale, lapsed; restarts; a host that sets the clock; what costs nothing twice.

mod support;

use release::{Anchor, Instants, Keeper, Published, Standing, State, Store, name};
use std::time::Duration;
use support::*;

/// The host's clock and the counter, in step.
fn at(passed: u64) -> Instants {
    Instants { host: T0 + passed, monotonic: Duration::from_secs(passed) }
}

fn keeper(publisher: &Publisher, anchor: Anchor, store: Option<Store>, at: Instants) -> Keeper {
    Keeper::open(anchor, &publisher.root, Box::new(publisher.mirror.clone()), store, at).unwrap()
}

fn accepted(published: &Published) -> usize {
    published.reference("worker").releases.len()
}

#[test]
fn what_is_held_outlives_the_mirror_until_its_end_and_no_longer() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, at(0));
    assert!(matches!(keeper.published(at(0)).standing, Standing::Lapsed { .. }));
    let fresh = keeper.refresh(at(0));
    assert_eq!(fresh.standing, Standing::Fresh { until: T0 + DAY });
    assert_eq!(accepted(&fresh), 1);
    publisher.set_gone(true);
    let stale = keeper.refresh(at(HOUR));
    assert!(
        matches!(&stale.standing, Standing::Stale { since, why, .. } if *since == T0 + HOUR && why.contains("it is gone"))
    );
    assert_eq!(accepted(&stale), 1);
    assert!(
        matches!(keeper.refresh(at(2 * HOUR)).standing, Standing::Stale { since, .. } if since == T0 + HOUR)
    );
    assert_eq!(accepted(&keeper.published(at(DAY - 1))), 1);
    let lapsed = keeper.published(at(DAY));
    assert!(matches!(&lapsed.standing, Standing::Lapsed { why } if why.contains("it is gone")));
    assert_eq!((accepted(&lapsed), lapsed.releases.is_none()), (0, true));
    publisher.set_gone(false);
    publisher.now = T0 + DAY;
    publisher.renew();
    assert_eq!(accepted(&keeper.refresh(at(DAY + 1))), 1);
}

#[test]
fn a_mirror_that_serves_old_files_forever_is_stale_and_then_lapses() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, at(0));
    keeper.refresh(at(0));
    let frozen = keeper.refresh(at(DAY));
    assert!(matches!(&frozen.standing, Standing::Lapsed { why } if why.contains("timestamp.json: expired")));
    assert_eq!(accepted(&frozen), 0);
}

#[test]
fn grace_is_what_the_settings_say() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut anchor = anchor(&publisher, 2);
    anchor.grace_seconds = 2 * HOUR;
    let mut keeper = keeper(&publisher, anchor, None, at(0));
    keeper.refresh(at(0));
    let late = keeper.refresh(at(DAY + HOUR));
    assert!(matches!(&late.standing, Standing::Stale { why, .. } if why.contains("expired")));
    assert_eq!(accepted(&late), 1);
    assert_eq!(accepted(&keeper.published(at(DAY + 2 * HOUR))), 0);
}

#[test]
fn a_revocation_arrives_with_the_next_refresh() {
    let mut publisher = Publisher::new();
    let bad = publisher.release([0, 1, 0], &REBUILDERS);
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, at(0));
    assert_eq!(accepted(&keeper.refresh(at(0))), 1);
    let document = document(&bad, State::Revoked).to_bytes().unwrap();
    publisher.now += HOUR;
    publisher.publish(vec![(bad.id().unwrap().target(name::RELEASE), document)]);
    assert!(keeper.due(at(0)) <= Duration::from_secs(HOUR));
    let published = keeper.refresh(at(HOUR));
    assert_eq!(accepted(&published), 0);
    let aside = published.releases.unwrap();
    assert_eq!(aside.set_aside()[0].why, "revoked: a hole in the engine");
}

#[test]
fn a_restart_remembers_what_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let store = || Some(Store::open(folder.path()).unwrap());
    let mut publisher = Publisher::new();
    let old = publisher.files();
    publisher.release([0, 1, 0], &REBUILDERS);
    let anchor = anchor(&publisher, 2);
    let mut first = keeper(&publisher, anchor.clone(), store(), at(0));
    first.refresh(at(0));
    assert_eq!(first.store_trouble(), None);
    drop(first);
    publisher.set_gone(true);
    // Off the folder alone, and only as long as it holds.
    let second = keeper(&publisher, anchor.clone(), store(), at(HOUR));
    assert_eq!(accepted(&second.published(at(HOUR))), 1);
    assert_eq!(second.versions(), [1, 2, 2, 2]);
    let mut late = keeper(&publisher, anchor.clone(), store(), at(2 * DAY));
    assert_eq!(accepted(&late.published(at(2 * DAY))), 0);
    assert_eq!(late.versions(), [1, 2, 2, 2], "expired metadata are floors still");
    publisher.set_gone(false);
    publisher.set_files(old);
    let rolled = late.refresh(at(2 * DAY));
    assert!(
        matches!(&rolled.standing, Standing::Lapsed { why } if why.contains("rollback")),
        "{}",
        rolled.standing
    );
}

#[test]
fn a_damaged_store_is_told_and_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let store = || Some(Store::open(folder.path()).unwrap());
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let anchor = anchor(&publisher, 2);
    keeper(&publisher, anchor.clone(), store(), at(0)).refresh(at(0));
    let path = folder.path().join("kept/metadata/timestamp.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"version\":2", "\"version\":9");
    std::fs::write(&path, text).unwrap();
    publisher.set_gone(true);
    let mut again = keeper(&publisher, anchor, store(), at(HOUR));
    assert!(again.store_trouble().unwrap().contains("left aside"), "{:?}", again.store_trouble());
    assert_eq!(accepted(&again.published(at(HOUR))), 0);
    publisher.set_gone(false);
    assert_eq!(accepted(&again.refresh(at(HOUR))), 1);
    assert_eq!(again.store_trouble(), None);
}

#[test]
fn a_host_that_sets_the_clock_back_gains_nothing_over_the_counter() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let frozen = |passed| Instants { host: 1_000, monotonic: Duration::from_secs(passed) };
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, frozen(0));
    // The newest date that the publisher signed takes the place of the host's.
    let published = keeper.refresh(frozen(0));
    assert_eq!((published.at, accepted(&published)), (T0, 1));
    assert_eq!(accepted(&keeper.published(frozen(DAY - 1))), 1);
    let lapsed = keeper.refresh(frozen(DAY));
    assert!(matches!(lapsed.standing, Standing::Lapsed { .. }), "{}", lapsed.standing);
}

#[test]
fn bounds_from_settings_chain_and_collateral_refuse_old_metadata_at_any_clock() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let host = |passed| Instants { host: 0, monotonic: Duration::from_secs(passed) };
    let mut anchor = anchor(&publisher, 2);
    anchor.not_before = Some(evidence::show_time(T0 + 2 * DAY));
    let mut settings = keeper(&publisher, anchor.clone(), None, host(0));
    assert!(
        matches!(settings.refresh(host(0)).standing, Standing::Lapsed { why } if why.contains("expired"))
    );
    anchor.not_before = None;
    let mut chain = keeper(&publisher, anchor, None, host(0));
    assert_eq!(accepted(&chain.refresh(host(0))), 1);
    chain.not_earlier_than(T0 + DAY - 10, host(1));
    assert_eq!(accepted(&chain.published(host(5))), 1);
    assert_eq!(accepted(&chain.published(host(11))), 0);
}

#[test]
fn a_clock_set_ahead_only_makes_things_expire() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, at(0));
    keeper.refresh(at(0));
    let ahead = Instants { host: T0 + 1000 * DAY, monotonic: Duration::from_secs(1) };
    assert!(matches!(keeper.refresh(ahead).standing, Standing::Lapsed { .. }));
    assert_eq!(accepted(&keeper.refresh(at(2))), 1);
}

#[test]
fn what_is_known_is_not_fetched_again() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, at(0));
    keeper.refresh(at(0));
    let fetched = |publisher: &Publisher| std::mem::take(&mut publisher.mirror.0.lock().unwrap().fetched);
    assert!(fetched(&publisher) > 9);
    keeper.refresh(at(HOUR));
    assert_eq!(fetched(&publisher), 4, "a root that is not there, timestamp, snapshot, targets");
}

#[test]
fn a_short_lived_timestamp_is_renewed_well_before_its_end() {
    let mut publisher = Publisher::new();
    publisher.lives = Lives([DAY, DAY, 600]);
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, at(0));
    keeper.refresh(at(0));
    assert_eq!(keeper.due(at(0)), Duration::from_secs(300));
}

#[test]
fn a_publication_given_as_the_store_loses_nothing() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("metadata/1.targets.json");
    std::fs::create_dir_all(old.parent().unwrap()).unwrap();
    std::fs::write(&old, publisher.get("metadata/1.targets.json")).unwrap();
    let store = Some(Store::open(folder.path()).unwrap());
    keeper(&publisher, anchor(&publisher, 2), store, at(0)).refresh(at(0));
    assert!(old.exists());
}

#[test]
fn failures_are_tried_again_with_growing_waits() {
    let publisher = Publisher::new();
    publisher.set_gone(true);
    let mut keeper = keeper(&publisher, anchor(&publisher, 2), None, at(0));
    let mut waits = Vec::new();
    for _ in 0..12 {
        keeper.refresh(at(0));
        waits.push(keeper.due(at(0)).as_secs());
    }
    assert_eq!(waits[..4], [5, 10, 20, 40]);
    assert_eq!(waits[11], HOUR, "never longer than the settings' interval");
}
