//! What is trusted changes while connections live: releases are revoked, collateral and clocks move.

use super::*;
use crate::Trust;

const DAY: u64 = 24 * 60 * 60;

async fn peer(world: &World, verifier: &Verifier) -> crate::Peer {
    let near = honest(&open(end(world, Part::Worker)));
    let wanted = Wanted::part(Part::Worker);
    crate::connect(near, &Endpoint::anonymous(), verifier, &wanted).await.unwrap().into_parts().0
}

/// Without the release that is there.
fn revoked(world: &World) -> Trust {
    let mut trust = world.trust();
    trust.reference.releases[0].rtmr1 = trust.reference.releases[0].rtmr2;
    trust
}

#[tokio::test]
async fn evidence_of_a_revoked_release_is_refused() {
    let world = world();
    let verifier = world.verifier();
    let acceptor = open(end(&world, Part::Worker));
    let wanted = Wanted::part(Part::Worker);
    let me = Endpoint::anonymous();
    assert!(crate::connect(honest(&acceptor), &me, &verifier, &wanted).await.is_ok());
    verifier.replace(revoked(&world));
    let refused = crate::connect(honest(&acceptor), &me, &verifier, &wanted).await;
    assert_eq!(failed(refused), [CheckName::Registers]);
}

#[tokio::test]
async fn a_living_peer_whose_release_is_revoked_is_no_longer_trusted() {
    let world = world();
    let verifier = world.verifier();
    let peer = peer(&world, &verifier).await;
    verifier.still_trusts(&peer).unwrap();
    assert!(peer.judged_under(&verifier.trust()));

    let mut changed = verifier.changed();
    changed.mark_unchanged();
    verifier.replace(revoked(&world));
    assert!(changed.has_changed().unwrap());
    assert!(!peer.judged_under(&verifier.trust()));
    let refusal = verifier.still_trusts(&peer).unwrap_err();
    assert!(matches!(refusal, Refusal::NoLonger(_)), "{refusal}");
    let failed: Vec<_> = refusal.verdict().unwrap().failed().map(|check| check.name).collect();
    assert_eq!(failed, [CheckName::Registers]);

    verifier.replace(world.trust());
    verifier.still_trusts(&peer).unwrap();
}

#[tokio::test]
async fn a_living_peer_under_another_root_is_no_longer_trusted() {
    let (ours, theirs) = (world(), world());
    let verifier = ours.verifier();
    let peer = peer(&ours, &verifier).await;
    verifier.replace(Trust { reference: ours.reference.clone(), ..theirs.trust() });
    assert!(matches!(verifier.still_trusts(&peer), Err(Refusal::NoLonger(_))));
}

#[tokio::test]
async fn a_proof_does_not_outlive_what_it_rests_on() {
    let world = world();
    let peer = peer(&world, &world.verifier()).await;
    let expires = peer.expires().unwrap();
    assert!(expires > AT);
    Verifier::fixed(world.trust(), expires - 1).still_trusts(&peer).unwrap();
    let refusal = Verifier::fixed(world.trust(), expires).still_trusts(&peer).unwrap_err();
    assert!(matches!(refusal, Refusal::Expired { at, expired } if at == expires && expired == expires));
    assert!(!refusal.is_peer_fault());
}

#[tokio::test]
async fn a_clock_before_or_after_the_collateral_refuses() {
    let world = world();
    for at in [AT - 400 * DAY, AT + 400 * DAY] {
        let near = honest(&open(end(&world, Part::Worker)));
        let verifier = Verifier::fixed(world.trust(), at);
        let wanted = Wanted::part(Part::Worker);
        let refused = crate::connect(near, &Endpoint::anonymous(), &verifier, &wanted).await;
        let failed = failed(refused);
        assert!(failed.contains(&CheckName::CollateralWindow), "{at}: {failed:?}");
    }
}

#[tokio::test]
async fn the_clock_is_asked_for_each_peer() {
    let world = world();
    let now = Arc::new(std::sync::atomic::AtomicU64::new(AT));
    let clock = now.clone();
    let verifier = Verifier::new(world.trust(), move || clock.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(peer(&world, &verifier).await.at(), AT);
    now.store(AT + 60, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(peer(&world, &verifier).await.at(), AT + 60);
}
