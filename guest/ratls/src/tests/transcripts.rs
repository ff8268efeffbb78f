//! Transcripts cut anywhere and frames out of order, by an end that could have spoken well.

use super::*;
use crate::ChannelError;
use tokio::io::AsyncWriteExt;

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// A responder that makes the honest frames of a mutual exchange on this very connection, and sends what `edit` makes of
/// them.
fn puppet(world: &World, edit: impl FnOnce(Vec<Vec<u8>>) -> Vec<u8> + Send + 'static) -> DuplexStream {
    let identity = tls::Identity::generate();
    let me = end_with(world, Part::Service, identity.clone_for_tests());
    attacker(tls::server_config(&identity).unwrap(), async move |mut stream| {
        let challenge = read_challenge(&mut stream).await;
        let exporter = tls::exporter(stream.get_ref().1).unwrap();
        let link = Link::new(exporter, Direction::Responder, me.part(), Part::Service, me.key());
        let evidence = me.answer(&link, &challenge).await.unwrap();
        let own = Challenge::new([9; 32], Part::Service, Part::Service).to_bytes();
        let frames = vec![framed(&own), framed(&evidence), framed(&Control::Accepted.to_bytes())];
        let _ = stream.write_all(&edit(frames)).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
}

/// The initiator's end of it: where it stopped, if it did.
async fn initiate(world: &World, me: &Endpoint, near: DuplexStream) -> Result<(), String> {
    let wanted = Wanted::part(Part::Service);
    let attested = crate::connect(near, me, &world.verifier(), &wanted).await.map_err(|e| name(&e))?;
    let (_, _, mut stream) = attested.into_parts();
    stream.accepted().await.map_err(|error| channel(&error))
}

fn name(error: &ConnectError) -> String {
    match error {
        ConnectError::Channel(error) => channel(error),
        other => panic!("{other}"),
    }
}

fn channel(error: &ChannelError) -> String {
    assert!(error.is_peer_fault(), "{error}");
    match error {
        ChannelError::Closed { step, .. } => format!("closed at {step}"),
        ChannelError::Malformed { step, .. } => format!("malformed {step}"),
        ChannelError::Oversized { step, .. } => format!("oversized {step}"),
        ChannelError::Unexpected { step, .. } => format!("unexpected at {step}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_responders_transcript_cut_anywhere_is_refused_with_its_step() {
    let world = world();
    let me = end(&world, Part::Service);
    let lengths = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = lengths.clone();
    let near = puppet(&world, move |frames| {
        *told.lock().unwrap() = frames.iter().map(Vec::len).collect();
        frames.concat()
    });
    initiate(&world, &me, near).await.unwrap();
    let lengths = lengths.lock().unwrap().clone();
    let (first, second, total) = (lengths[0], lengths[0] + lengths[1], lengths.iter().sum::<usize>());

    // Every cut of the short frames, and some of the long one.
    let ends = (0..=first).chain((first + 1..second).step_by(997)).chain(second - 2..total);
    for end in ends {
        let near = puppet(&world, move |frames| frames.concat()[..end].to_vec());
        let expected = match end {
            end if end < first => "closed at challenge",
            end if end < second => "closed at evidence",
            _ => "closed at verdict",
        };
        assert_eq!(initiate(&world, &me, near).await.unwrap_err(), expected, "{end} of {total}");
    }
}

#[tokio::test]
async fn a_responders_frames_in_any_other_order_are_refused() {
    let world = world();
    let me = end(&world, Part::Service);
    let orders: [(&[usize], &str); 9] = [
        (&[1, 0, 2], "oversized challenge"),
        (&[2, 1, 0], "unexpected at challenge"),
        (&[0, 2, 1], "unexpected at evidence"),
        (&[1, 2, 0], "oversized challenge"),
        (&[2, 0, 1], "unexpected at challenge"),
        (&[0, 0, 1, 2], "malformed evidence"),
        (&[0, 1, 1, 2], "oversized verdict"),
        (&[0, 1, 0, 2], "oversized verdict"),
        (&[0, 2], "unexpected at evidence"),
    ];
    for (order, expected) in orders {
        let near = puppet(&world, move |frames| order.iter().flat_map(|n| frames[*n].clone()).collect());
        assert_eq!(initiate(&world, &me, near).await.unwrap_err(), expected, "{order:?}");
    }
}

/// An initiator that makes the honest frames of a mutual exchange, and sends what `edit` makes of them; what the responder
/// says.
async fn respond(
    world: &World,
    challenge_first: bool,
    edit: impl FnOnce([Vec<u8>; 2]) -> Vec<u8>,
) -> Result<(), String> {
    let acceptor = mutual::host(world, Part::Service, world, Part::Service);
    let me = end(world, Part::Service);
    let (near, far) = wire();
    let initiator = async {
        let mut stream = bare_client(near, tls::client_config().unwrap()).await;
        let exporter = tls::exporter(stream.get_ref().1).unwrap();
        let key = tls::responder_key(stream.get_ref().1).unwrap();
        let link = Link::new(exporter, Direction::Initiator, me.part(), Part::Service, key);
        let own = Challenge::new([9; 32], Part::Service, Part::Service).to_bytes();
        let asked = match challenge_first {
            true => {
                frame::write(&mut stream, Step::Challenge, &own).await.unwrap();
                frame::read(&mut stream, Step::Challenge, 512).await.unwrap()
            }
            // Evidence before the question: over a challenge that nobody sent.
            false => Challenge::new([8; 32], Part::Service, Part::Service).to_bytes(),
        };
        let evidence = me.answer(&link, &asked).await.unwrap();
        let _ = stream.write_all(&edit([framed(&own), framed(&evidence)])).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    // A stream that came up is dropped at once, or the initiator would wait for more.
    let accepting = async { acceptor.accept(far).await.map(drop) };
    match tokio::join!(accepting, initiator).0 {
        Ok(()) => Ok(()),
        Err(AcceptError::Channel(error)) => Err(channel(&error)),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_initiators_transcript_cut_anywhere_or_out_of_order_is_refused_with_its_step() {
    let world = world();
    respond(&world, true, |[_, evidence]| evidence).await.unwrap();
    for end in (0..2000).step_by(499) {
        let cut = respond(&world, true, |[_, evidence]| evidence[..end].to_vec()).await;
        assert_eq!(cut.unwrap_err(), "closed at evidence", "{end}");
    }
    for end in 0..90 {
        let cut = respond(&world, false, |[challenge, _]| challenge[..end.min(challenge.len() - 1)].to_vec());
        assert_eq!(cut.await.unwrap_err(), "closed at challenge", "{end}");
    }
    let swapped = respond(&world, false, |[challenge, evidence]| [evidence, challenge].concat()).await;
    assert_eq!(swapped.unwrap_err(), "oversized challenge");
    let twice = respond(&world, true, |[challenge, evidence]| [challenge, evidence].concat()).await;
    assert_eq!(twice.unwrap_err(), "malformed evidence");
}
