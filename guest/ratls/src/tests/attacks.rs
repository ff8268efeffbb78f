//! Evidence that is right in itself, in the wrong place: relayed, diverted, replayed, reflected, altered.

use super::*;
use crate::ChannelError;
use evidence::Release;
use protocol::channel::Refuse;
use std::sync::Mutex;

/// A man in the middle who terminates the initiator's TLS with `config` and passes everything through.
fn relay(config: ServerConfig, responder: DuplexStream) -> DuplexStream {
    attacker(config, async move |mut to_victim| {
        let client = tls::client_config().unwrap();
        let mut to_responder = bare_client(responder, client).await;
        let challenge = read_challenge(&mut to_victim).await;
        frame::write(&mut to_responder, Step::Challenge, &challenge).await.unwrap();
        let evidence = frame::read(&mut to_responder, Step::Evidence, 1 << 21).await.unwrap();
        frame::write(&mut to_victim, Step::Evidence, &evidence).await.unwrap();
        let _ = to_victim.read(&mut [0; 1]).await;
    })
}

#[tokio::test]
async fn the_forger_who_changes_nothing_is_believed() {
    // So that each forgery below is refused for what it changes.
    let world = world();
    let attested = ask(forger(&world, |_, _, _| {}, |_| {}), &world).await.unwrap();
    assert_eq!(attested.peer().part(), Part::Worker);
}

#[tokio::test]
async fn evidence_relayed_to_another_connection_is_refused() {
    let world = world();
    let near = relay(own_key(), honest(&open(end(&world, Part::Worker))));
    assert_eq!(failed(ask(near, &world).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn evidence_relayed_under_the_attesters_stolen_key_is_refused() {
    // Key, challenge and parts agree here; only the exporter gives the relay away.
    let world = world();
    let identity = tls::Identity::generate();
    let stolen = tls::server_config(&identity).unwrap();
    let near = relay(stolen, honest(&open(end_with(&world, Part::Worker, identity))));
    assert_eq!(failed(ask(near, &world).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn a_stolen_tls_key_with_an_old_quote_is_refused() {
    let world = world();
    let identity = tls::Identity::generate();
    let stolen = tls::server_config(&identity).unwrap();
    let acceptor = open(end_with(&world, Part::Worker, identity));
    let old = seen(&world, honest(&acceptor)).await;
    let near = attacker(stolen, async move |mut stream| {
        read_challenge(&mut stream).await;
        frame::write(&mut stream, Step::Evidence, &old).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    assert_eq!(failed(ask(near, &world).await), [CheckName::ReportData]);
}

/// The evidence that an honest responder sends, taken by one who was entitled to it.
async fn seen(world: &World, io: DuplexStream) -> Vec<u8> {
    let taken = Mutex::new(Vec::new());
    let (me, wanted, verifier) = (Endpoint::anonymous(), Wanted::part(Part::Worker), world.verifier());
    let show = |claim: &crate::Claim| *taken.lock().unwrap() = claim.shown.to_bytes();
    crate::connect_showing(io, &me, &verifier, &wanted, show).await.unwrap();
    taken.into_inner().unwrap()
}

#[tokio::test]
async fn a_client_is_not_diverted_to_another_peer_of_the_same_release() {
    let world = world();
    let (wanted, other) = (key("session", 1), key("session", 2));
    let ask_for_one = Wanted { identity: Some(wanted.clone()), ..Wanted::part(Part::Worker) };
    let with = |key: &ApplicationKey| end(&world, Part::Worker).with_keys(keys(std::slice::from_ref(key)));

    let right = ask_for(honest(&open(with(&wanted))), &world, &ask_for_one).await.unwrap();
    assert!(right.peer().keys().contains(&wanted));

    // An honest other says so at once, before it pays for a quote.
    let acceptor = open(with(&other));
    let error = ask_for(honest(&acceptor), &world, &ask_for_one).await.err().unwrap();
    let stated = ChannelError::Refused { step: Step::Challenge, reason: Refuse::Identity };
    assert_eq!(error.to_string(), stated.to_string());
    assert_eq!(acceptor.endpoint().quotes().unwrap().stats().quotes, 0);

    // One that keeps silent about it shows another key, or none,
    for shown in [Some(other), None] {
        let near = forger(
            &world,
            move |_, _, keys| *keys = super::keys(&shown.into_iter().collect::<Vec<_>>()),
            |_| {},
        );
        let refusal = refusal(ask_for(near, &world, &ask_for_one).await);
        assert!(matches!(refusal, Refusal::Identity { .. }), "{refusal}");
    }

    // ... or writes the wanted key over its own,
    let named = wanted.clone();
    let near = forger(&world, |_, _, _| {}, move |shown| shown.keys = keys(&[named]));
    assert_eq!(failed(ask_for(near, &world, &ask_for_one).await), [CheckName::ReportData]);
    // ... or is asked without an identity by one who stands between.
    let near = forger(
        &world,
        |_, challenge, _| challenge.identity = None,
        move |shown| shown.keys = keys(&[wanted]),
    );
    assert_eq!(failed(ask_for(near, &world, &ask_for_one).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn application_keys_that_were_altered_are_refused() {
    let world = world();
    for altered in [keys(&[key("session", 2)]), keys(&[key("other", 1)]), keys(&[])] {
        let bind = |_: &mut Link, _: &mut Challenge, bound: &mut ApplicationKeys| {
            *bound = keys(&[key("session", 1)]);
        };
        let near = forger(&world, bind, |shown| shown.keys = altered);
        assert_eq!(failed(ask(near, &world).await), [CheckName::ReportData]);
    }
}

#[tokio::test]
async fn evidence_of_an_earlier_challenge_is_refused() {
    // On the same connection, under the same key: only the nonce is older.
    let world = world();
    let near = forger(&world, |_, challenge, _| challenge.nonce[31] ^= 1, |_| {});
    assert_eq!(failed(ask(near, &world).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn evidence_replayed_on_another_connection_is_refused() {
    let world = world();
    let acceptor = open(end(&world, Part::Worker));
    let old = seen(&world, honest(&acceptor)).await;
    let near = attacker(own_key(), async move |mut stream| {
        read_challenge(&mut stream).await;
        frame::write(&mut stream, Step::Evidence, &old).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    assert_eq!(failed(ask(near, &world).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn a_quote_over_another_key_is_refused() {
    let world = world();
    let other = tls::Identity::generate().public_key;
    let swap = move |link: &mut Link, _: &mut Challenge, _: &mut ApplicationKeys| {
        *link = Link::new(*link.exporter(), Direction::Responder, Part::Worker, Part::Client, other.into());
    };
    assert_eq!(failed(ask(forger(&world, swap, |_| {}), &world).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn evidence_of_another_direction_or_for_another_part_is_refused() {
    use Direction::{Initiator, Responder};
    use Part::{Client, Proxy, Worker};
    let world = world();
    for (direction, mine, theirs) in
        [(Initiator, Worker, Client), (Responder, Proxy, Client), (Responder, Worker, Proxy)]
    {
        let forge = move |link: &mut Link, _: &mut Challenge, _: &mut ApplicationKeys| {
            *link = Link::new(*link.exporter(), direction, mine, theirs, link.responder_key().into());
        };
        assert_eq!(failed(ask(forger(&world, forge, |_| {}), &world).await), [CheckName::ReportData]);
    }
}

#[tokio::test]
async fn a_challenge_sent_back_is_refused_as_a_reflection() {
    let world = world();
    let me = end(&world, Part::Service);
    let near = attacker(own_key(), async |mut stream| {
        let challenge = read_challenge(&mut stream).await;
        frame::write(&mut stream, Step::Challenge, &challenge).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let wanted = Wanted::part(Part::Service);
    let error = crate::connect(near, &me, &world.verifier(), &wanted).await.err().unwrap();
    let reflected = matches!(error, ConnectError::Channel(ChannelError::Reflected));
    assert!(reflected && error.is_peer_fault(), "{error}");
    assert_eq!(me.quotes().unwrap().stats().quotes, 0);
}

#[tokio::test]
async fn our_own_evidence_sent_back_is_refused() {
    // Both ends are services of one release on one connection: the direction alone tells them apart.
    let world = world();
    let me = end(&world, Part::Service);
    let link = Link::new([7; 32], Direction::Initiator, me.part(), me.part(), me.key());
    let verifier = world.verifier();
    let wanted = Wanted::part(Part::Service);

    let question = verifier.ask(&link, &wanted).unwrap();
    let answer = me.answer(&link, &question.to_bytes()).await.unwrap();
    let refused = verifier.judge(question, &link, &answer).err().unwrap();
    let crate::JudgeError::Refused(refusal) = refused else { panic!("{refused}") };
    let failed: Vec<_> = refusal.verdict().unwrap().failed().map(|check| check.name).collect();
    assert_eq!(failed, [CheckName::ReportData]);

    // The end that faces us is believed with the very same evidence machinery.
    let facing = Link::new([7; 32], Direction::Responder, me.part(), me.part(), me.key());
    let question = verifier.ask(&link, &wanted).unwrap();
    let answer = me.answer(&facing, &question.to_bytes()).await.unwrap();
    assert!(verifier.judge(question, &link, &answer).is_ok());
}

#[tokio::test]
async fn a_release_other_than_the_named_one_is_refused() {
    let mut world = world();
    let here = world.reference.releases[0].digest();
    let mut other = world.reference.releases[0].clone();
    (other.name, other.rtmr2) = ("another release".into(), other.rtmr1);
    let named = Release::digest(&other);
    world.reference.releases.push(other);
    let acceptor = open(end(&world, Part::Worker));
    let wanted = |release| Wanted { release: Some(release), ..Wanted::part(Part::Worker) };

    let attested = ask_for(honest(&acceptor), &world, &wanted(here)).await.unwrap();
    assert_eq!(attested.peer().release(), Some(here));
    let refusal = refusal(ask_for(honest(&acceptor), &world, &wanted(named)).await);
    let other = matches!(&refusal, Refusal::OtherRelease { found, .. } if found == "simulated release");
    assert!(other, "{refusal}");

    // One who stands between can't have the attester asked for another.
    let near = forger(&world, move |_, challenge, _| challenge.release = Some(named), |_| {});
    assert_eq!(failed(ask_for(near, &world, &wanted(here)).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn a_guest_configured_for_another_role_is_refused() {
    let world = support::world_with(b"schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n");
    let refusal = refusal(ask(forger(&world, |_, _, _| {}, |_| {}), &world).await);
    let role = matches!(&refusal, Refusal::Role { wanted: Part::Worker, found } if found == "proxy");
    assert!(role, "{refusal}");
}

#[tokio::test]
async fn a_peer_of_another_part_says_so() {
    let world = world();
    let acceptor = open(end(&world, Part::Proxy));
    let error = ask(honest(&acceptor), &world).await.err().unwrap();
    let part = matches!(
        error,
        ConnectError::Channel(ChannelError::Refused { step: Step::Challenge, reason: Refuse::Part })
    );
    assert!(part && !error.is_peer_fault(), "{error}");
}

#[tokio::test]
async fn a_binding_outside_the_quoted_batch_is_refused() {
    let world = world();
    let (_, mut proofs) = protocol::batch::batch(&[[1; 64], [2; 64]]).unwrap();
    let stranger = proofs.pop().unwrap();
    let near = forger(&world, |_, _, _| {}, |shown| shown.batch = stranger);
    assert_eq!(failed(ask(near, &world).await), [CheckName::ReportData]);
}
