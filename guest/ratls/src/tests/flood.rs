//! Floods: connections that want quotes, work that is not done, frames that claim to be long.

use super::steps::gated;
use super::*;
use crate::{AnswerError, ChannelError, QuoteError};
use protocol::channel::{Refuse, difficulty, solves};
use tokio::io::AsyncWriteExt;

/// A queue of this many places before a platform that answers when it is let.
fn gated_acceptor(world: &World, waiting: usize) -> (Arc<Acceptor>, super::steps::Gate) {
    let (platform, gate) = gated(world);
    let limits = QuoteLimits { at_once: 1, waiting, batch: 1, ..QuoteLimits::default() };
    let quotes = QuoteQueue::new(platform, limits);
    (open(Endpoint::attested(Part::Worker, quotes, world.static_config.clone())), gate)
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// An initiator that asks once and does no work; what it was told.
async fn idler(acceptor: Arc<Acceptor>) -> (Control, AcceptError) {
    let (near, far) = wire();
    let accepting = tokio::spawn(async move { acceptor.accept(far).await.err().unwrap() });
    let mut stream = bare_client(near, tls::client_config().unwrap()).await;
    let challenge = Challenge::new([1; 32], Part::Client, Part::Worker).to_bytes();
    frame::write(&mut stream, Step::Challenge, &challenge).await.unwrap();
    let told = Control::from_bytes(&frame::read(&mut stream, Step::Evidence, 1 << 20).await.unwrap());
    drop(stream);
    (told.unwrap(), accepting.await.unwrap())
}

#[tokio::test]
async fn a_flood_without_work_leaves_room_for_one_who_works() {
    let world = Arc::new(world());
    let (acceptor, (mut starts, permit)) = gated_acceptor(&world, 16);
    let queue = acceptor.endpoint().quotes().unwrap().clone();
    // A quarter of the queue is free; beyond it, work is demanded of everyone.
    let mut free = Vec::new();
    for place in 1..=4 {
        let (near, world) = (honest(&acceptor), world.clone());
        free.push(tokio::spawn(async move { ask(near, &world).await.map(drop) }));
        until(|| queue.depth() == place).await;
    }
    starts.recv().await.unwrap();
    for _ in 0..40 {
        let (told, error) = idler(acceptor.clone()).await;
        assert_eq!(told, Control::Retry { difficulty: difficulty(4, 16) });
        let left = matches!(
            error,
            AcceptError::Channel(ChannelError::Closed { step: Step::Admission, received: 0 })
        );
        assert!(left && error.is_peer_fault(), "{error}");
        assert_eq!(queue.depth(), 4, "one who does no work takes no place");
    }

    // Those who work get in, and have to work more, the fuller it is.
    let mut demands = Vec::new();
    for place in 5..=6 {
        demands.push(idler(acceptor.clone()).await.0);
        let (near, world) = (honest(&acceptor), world.clone());
        free.push(tokio::spawn(async move { ask(near, &world).await.map(drop) }));
        until(|| queue.depth() == place).await;
    }
    let bits = |control: &Control| match control {
        Control::Retry { difficulty } => *difficulty,
        other => panic!("{other:?}"),
    };
    assert!(bits(&demands[0]) < bits(&demands[1]), "{demands:?}");

    drop(permit);
    for asked in free {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(queue.depth(), 0);
    // Nobody waits, nobody works.
    let near = honest(&acceptor);
    ask(near, &world).await.unwrap();
}

#[tokio::test]
async fn a_solution_of_another_connection_is_refused() {
    let world = world();
    // More is demanded than a solution found elsewhere has by chance.
    let (acceptor, (mut starts, permit)) = gated_acceptor(&world, 4);
    let near = honest(&acceptor);
    let waiting = tokio::spawn(async move { ask(near, &world).await.map(drop) });
    starts.recv().await.unwrap();

    let (near, far) = wire();
    let accepting = {
        let acceptor = acceptor.clone();
        tokio::spawn(async move { acceptor.accept(far).await.err().unwrap() })
    };
    let mut stream = bare_client(near, tls::client_config().unwrap()).await;
    let exporter = tls::exporter(stream.get_ref().1).unwrap();
    let challenge = Challenge::new([1; 32], Part::Client, Part::Worker);
    frame::write(&mut stream, Step::Challenge, &challenge.to_bytes()).await.unwrap();
    let told = frame::read(&mut stream, Step::Evidence, 64).await.unwrap();
    let Control::Retry { difficulty: bits } = Control::from_bytes(&told).unwrap() else { panic!("{told:?}") };
    let foreign = (0..).find(|solution| !solves(&exporter, *solution, bits)).unwrap();
    let second = Challenge { solution: Some(foreign), ..challenge };
    frame::write(&mut stream, Step::Challenge, &second.to_bytes()).await.unwrap();
    let told = frame::read(&mut stream, Step::Evidence, 64).await.unwrap();
    assert_eq!(Control::from_bytes(&told).unwrap(), Control::Refuse(Refuse::Admission));
    let error = accepting.await.unwrap();
    let stated = matches!(error, AcceptError::Admission { difficulty } if difficulty == bits);
    assert!(stated && error.is_peer_fault(), "{error}");
    drop(permit);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_queue_turns_away_whoever_comes() {
    let world = world();
    let (platform, (mut starts, permit)) = gated(&world);
    let limits = QuoteLimits { at_once: 1, waiting: 1, batch: 1, ..QuoteLimits::default() };
    let quotes = QuoteQueue::new(platform, limits);
    let me = Endpoint::attested(Part::Worker, quotes, world.static_config.clone());
    let link = Link::new([1; 32], Direction::Responder, me.part(), Part::Client, me.key());
    let challenge = Challenge::new([1; 32], Part::Client, Part::Worker).to_bytes();
    let both = async {
        let first = me.answer(&link, &challenge);
        let second = async {
            starts.recv().await.unwrap();
            let third = async {
                until(|| me.quotes().unwrap().depth() == 2).await;
                let error = me.answer(&link, &challenge).await.unwrap_err();
                drop(permit);
                error
            };
            tokio::join!(me.answer(&link, &challenge), third)
        };
        tokio::join!(first, second)
    };
    let (first, (second, error)) = both.await;
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(error, AnswerError::Quote(QuoteError::Busy { waiting: 1 })), "{error}");
    assert!(error.refuse() == Refuse::Busy && !error.is_peer_fault());
}

#[tokio::test]
async fn a_challenge_that_changes_after_the_demand_for_work_is_refused() {
    let world = world();
    let (acceptor, (mut starts, permit)) = gated_acceptor(&world, 4);
    let near = honest(&acceptor);
    let waiting = tokio::spawn(async move { ask(near, &world).await.map(drop) });
    starts.recv().await.unwrap();
    for (nonce, solution) in [([2; 32], None), ([2; 32], Some(0))] {
        let (near, far) = wire();
        let initiator = async {
            let mut stream = bare_client(near, tls::client_config().unwrap()).await;
            let challenge = Challenge::new([1; 32], Part::Client, Part::Worker);
            frame::write(&mut stream, Step::Challenge, &challenge.to_bytes()).await.unwrap();
            frame::read(&mut stream, Step::Evidence, 64).await.unwrap();
            let other = Challenge { nonce, solution, ..challenge };
            frame::write(&mut stream, Step::Challenge, &other.to_bytes()).await.unwrap();
            frame::read(&mut stream, Step::Evidence, 64).await.unwrap()
        };
        let (accepted, told) = tokio::join!(acceptor.accept(far), initiator);
        let error = accepted.err().unwrap();
        let stated =
            matches!(error, AcceptError::Channel(ChannelError::Unexpected { step: Step::Admission, .. }));
        assert!(stated && error.is_peer_fault(), "{error}");
        assert_eq!(Control::from_bytes(&told).unwrap(), Control::Refuse(Refuse::Protocol));
    }
    drop(permit);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn endless_demands_for_work_are_not_met() {
    let world = world();
    let easy = Control::Retry { difficulty: 1 }.to_bytes();
    let near = attacker(own_key(), async move |mut stream| {
        for _ in 0..2 {
            read_challenge(&mut stream).await;
            frame::write(&mut stream, Step::Evidence, &easy).await.unwrap();
        }
        let _ = stream.read(&mut [0; 1]).await;
    });
    let error = ask(near, &world).await.err().unwrap();
    let second = matches!(
        error,
        ConnectError::Channel(ChannelError::Unexpected { found: "a second demand for work", .. })
    );
    assert!(second && error.is_peer_fault(), "{error}");

    let near = attacker(own_key(), async |mut stream| {
        read_challenge(&mut stream).await;
        let endless = [b"CHRYRT02".as_slice(), &64_u32.to_be_bytes()].concat();
        frame::write(&mut stream, Step::Evidence, &endless).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let error = ask(near, &world).await.err().unwrap();
    assert!(matches!(error, ConnectError::Channel(ChannelError::Malformed { .. })), "{error}");
}

#[tokio::test]
async fn frames_over_their_bound_are_refused_before_they_are_read() {
    let world = world();
    let (near, far) = wire();
    let acceptor = world.acceptor();
    let initiator = async {
        let mut stream = bare_client(near, tls::client_config().unwrap()).await;
        stream.write_all(&513_u32.to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let (accepted, _stream) = tokio::join!(acceptor.accept(far), initiator);
    let error = accepted.err().unwrap();
    let oversized = matches!(
        error,
        AcceptError::Channel(ChannelError::Oversized { step: Step::Challenge, claimed: 513, max: 512 })
    );
    assert!(oversized, "{error}");

    let claimed = protocol::channel::MAX_SHOWN_WITHOUT_GPU + 1;
    let near = attacker(own_key(), async move |mut stream| {
        read_challenge(&mut stream).await;
        stream.write_all(&(claimed as u32).to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let error = ask(near, &world).await.err().unwrap();
    let oversized = matches!(
        error,
        ConnectError::Channel(ChannelError::Oversized { step: Step::Evidence, claimed: c, .. }) if c == claimed
    );
    assert!(oversized, "{error}");
}
