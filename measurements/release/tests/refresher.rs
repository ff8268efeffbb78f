//! The thread that refreshes: it tells at once, tells a revocation within the settings' interval, and ends when dropped.

mod support;

use release::{Keeper, Published, Refresher, Standing, State, SystemClock, name};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::*;

/// Longest wait for something that comes after at most one interval of the settings below.
const PATIENCE: Duration = Duration::from_secs(120);

fn start(publisher: &Publisher) -> (Refresher, Receiver<Published>) {
    let mut anchor = anchor(publisher, 2);
    anchor.refresh_seconds = 5;
    let clock = SystemClock::start();
    let mirror = Box::new(publisher.mirror.clone());
    let keeper = Keeper::open(anchor, &publisher.root, mirror, None, clock.now()).unwrap();
    let (tell, told) = channel();
    let publish = move |published| {
        let _ = tell.send(published);
    };
    (Refresher::spawn(keeper, clock, publish).unwrap(), told)
}

fn publisher() -> Publisher {
    Publisher::at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

/// Waits for something to be told of which this holds.
fn until(told: &Receiver<Published>, holds: impl Fn(&Published) -> bool) -> Published {
    loop {
        let published = told.recv_timeout(PATIENCE).expect("the refresher tells something");
        if holds(&published) {
            return published;
        }
    }
}

#[test]
fn a_revoked_release_leaves_a_running_program_at_its_next_refresh() {
    let mut publisher = publisher();
    let bad = publisher.release([0, 1, 0], &REBUILDERS);
    let (refresher, told) = start(&publisher);
    let first = until(&told, |_| true);
    assert!(matches!(first.standing, Standing::Fresh { .. }), "{}", first.standing);
    assert_eq!(first.reference("worker").releases.len(), 1);
    let document = document(&bad, State::Revoked).to_bytes().unwrap();
    publisher.publish(vec![(bad.id().unwrap().target(name::RELEASE), document)]);
    let after = until(&told, |published| published.reference("worker").releases.is_empty());
    assert!(matches!(after.standing, Standing::Fresh { .. }), "{}", after.standing);
    assert_eq!(after.releases.unwrap().set_aside()[0].why, "revoked: a hole in the engine");
    drop(refresher);
    assert!(told.try_iter().count() < 3, "it ended");
    assert!(told.recv().is_err(), "nobody is left to tell");
}

#[test]
fn a_mirror_that_goes_is_told_as_stale() {
    let mut publisher = publisher();
    publisher.release([0, 1, 0], &REBUILDERS);
    let (_refresher, told) = start(&publisher);
    until(&told, |published| matches!(published.standing, Standing::Fresh { .. }));
    publisher.set_gone(true);
    let stale = until(&told, |published| matches!(published.standing, Standing::Stale { .. }));
    assert_eq!(stale.reference("worker").releases.len(), 1);
}
