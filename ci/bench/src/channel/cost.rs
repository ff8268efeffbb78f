//! Processor time of handshakes and of a long stream, and the round trips that attestation adds.

use super::cpu_time;
use super::plain::Plain;
use super::world::{QeReports, World};
use crate::report::{Limit, Number, Unit};
use anyhow::{Result, ensure};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::UnixStream;

/// Samples of each.
const ROUNDS: usize = 15;
/// Handshakes in one sample.
const HANDSHAKES: usize = 16;
/// Bytes of a long stream, and of one write.
const STREAM: usize = 64 * 1024 * 1024;
const WRITE: usize = 64 * 1024;
/// One way through the slow wire.
const ONE_WAY: Duration = Duration::from_millis(50);
/// Samples of the slow wire.
const TRIPS: usize = 5;
/// Room of the wires in memory, more than any flight of a handshake.
const WIRE: usize = 1024 * 1024;

/// Times plain rustls that a side's handshake may take.
const FRESH: f64 = 1.75;
const REPEATED: f64 = 1.35;
/// A long stream may take 1/0.98 of plain rustls' time.
const LONG_STREAM: f64 = 1.0 / 0.98;
/// Timers of the slow wire are good to a millisecond.
const ROUND_TRIP: f64 = 1.05;

/// All of it.
pub async fn measure() -> Result<Vec<Number>> {
    let mut numbers = handshakes().await?;
    numbers.push(stream().await?);
    numbers.push(round_trip().await?);
    Ok(numbers)
}

/// Microseconds of this thread a side and handshake. Quotes are made on threads of their own and are not in it.
async fn attested(world: &World) -> Result<f64> {
    let start = cpu_time();
    for _ in 0..HANDSHAKES {
        let (near, far) = duplex(WIRE);
        let (connected, accepted) = tokio::join!(world.connect(near), world.accept(far));
        let (mut connected, accepted) = (connected?, accepted?);
        connected.stream().accepted().await?;
        black_box((connected, accepted));
    }
    Ok((cpu_time() - start) / (2 * HANDSHAKES) as f64)
}

async fn plain(plain: &Plain) -> Result<f64> {
    let start = cpu_time();
    for _ in 0..HANDSHAKES {
        let (near, far) = duplex(WIRE);
        let (connected, accepted) = tokio::join!(plain.connect(near), plain.accept(far));
        black_box((connected?, accepted?));
    }
    Ok((cpu_time() - start) / (2 * HANDSHAKES) as f64)
}

async fn handshakes() -> Result<Vec<Number>> {
    let (fresh, same, peer) = (World::new(QeReports::Fresh)?, World::new(QeReports::Same)?, Plain::new()?);
    // Untimed: collateral and platforms are known from here on, and the code is warm.
    for world in [&fresh, &same] {
        attested(world).await?;
    }
    plain(&peer).await?;
    let [mut new, mut repeated, mut rustls] = [(); 3].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        rustls.push(plain(&peer).await?);
        new.push(attested(&fresh).await?);
        repeated.push(attested(&same).await?);
    }
    let stats = fresh.worker.queue.stats();
    ensure!(stats.quotes == stats.answered, "handshakes one after the other shared a quote");
    let a_quote = stats.total.as_secs_f64() * 1e6 / stats.quotes as f64;
    let number = |name, values: &[f64], times, what: &str| {
        Number::new(name, Unit::Microseconds, values)
            .beside("plain rustls, mutual, X25519MLKEM768", &rustls)
            .limit(Limit::TimesPeer(times))
            .covers(format!(
                "CPU a side of a mutual handshake, both proofs judged with warm collateral, {what}; making the quotes is \
                 not in it ({a_quote:.0} us each, SIMULATED)"
            ))
    };
    Ok(vec![
        number(
            "attested handshake, fresh QE report",
            &new,
            FRESH,
            "each proof with a QE report not seen before",
        ),
        number(
            "attested handshake, known QE report",
            &repeated,
            REPEATED,
            "each proof with a known QE report",
        ),
    ])
}

/// Microseconds of this thread for a megabyte, both ends.
async fn pushed<A, B>(mut from: A, mut to: B) -> Result<f64>
where
    A: AsyncWrite + Unpin,
    B: AsyncRead + Unpin,
{
    let data = vec![0x5a; WRITE];
    let start = cpu_time();
    let write = async {
        for _ in 0..STREAM / WRITE {
            from.write_all(&data).await?;
        }
        from.flush().await?;
        anyhow::Ok(from)
    };
    let read = async {
        let (mut buffer, mut left) = (vec![0; WRITE], STREAM);
        while left > 0 {
            let read = to.read(&mut buffer).await?;
            ensure!(read > 0, "the stream ended early");
            left -= read;
        }
        anyhow::Ok(to)
    };
    let (from, to) = tokio::try_join!(write, read)?;
    let taken = cpu_time() - start;
    drop((from, to));
    Ok(taken / (STREAM as f64 / 1e6))
}

async fn stream() -> Result<Number> {
    let (world, peer) = (World::new(QeReports::Same)?, Plain::new()?);
    let (mut ours, mut theirs) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        // Each goes first every other time.
        for attested in [round % 2 == 0, round % 2 != 0] {
            let (near, far) = UnixStream::pair()?;
            if attested {
                let (connected, accepted) = tokio::try_join!(world.connect(near), world.accept(far))?;
                ours.push(pushed(connected.into_parts().2, accepted.into_parts().2).await?);
            } else {
                let (connected, accepted) = tokio::try_join!(peer.connect(near), peer.accept(far))?;
                theirs.push(pushed(connected, accepted).await?);
            }
        }
    }
    Ok(Number::new("attested long stream", Unit::Microseconds, &ours)
        .beside("plain rustls", &theirs)
        .limit(Limit::TimesPeer(LONG_STREAM))
        .covers("CPU of both ends for a megabyte of a stream of 64 MiB, over a socket pair: a wire in memory would cost more in growing its buffer than the channel does"))
}

/// A wire on which everything takes [`ONE_WAY`] in each direction.
fn slow_wire() -> (DuplexStream, DuplexStream) {
    let ((near, near_end), (far_end, far)) = (duplex(WIRE), duplex(WIRE));
    let ((near_read, near_write), (far_read, far_write)) =
        (tokio::io::split(near_end), tokio::io::split(far_end));
    tokio::spawn(carry(near_read, far_write));
    tokio::spawn(carry(far_read, near_write));
    (near, far)
}

/// Carries bytes, each as late as the wire is long.
async fn carry(mut from: impl AsyncRead + Unpin + Send, mut to: impl AsyncWrite + Unpin + Send + 'static) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let delivering = tokio::spawn(async move {
        while let Some((at, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; WRITE];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let _ = sender.send((tokio::time::Instant::now() + ONE_WAY, buffer[..read].to_vec()));
    }
    drop(sender);
    let _ = delivering.await;
}

/// Milliseconds until a byte that the initiator sends after connecting has arrived at the responder.
async fn first_byte<A, B>(
    connect: impl Future<Output = Result<A>>,
    accept: impl Future<Output = Result<B>>,
) -> Result<f64>
where
    A: AsyncWrite + Unpin,
    B: AsyncRead + Unpin,
{
    let start = Instant::now();
    let send = async {
        let mut connected = connect.await?;
        connected.write_all(b"x").await?;
        connected.flush().await?;
        anyhow::Ok(connected)
    };
    let receive = async {
        let mut accepted = accept.await?;
        accepted.read_u8().await?;
        anyhow::Ok((accepted, start.elapsed()))
    };
    let (connected, (accepted, taken)) = tokio::try_join!(send, receive)?;
    drop((connected, accepted));
    Ok(taken.as_secs_f64() * 1e3)
}

async fn round_trip() -> Result<Number> {
    let (world, peer) = (World::new(QeReports::Same)?, Plain::new()?);
    let stream = async |connecting| anyhow::Ok::<_>(ratls::Attested::into_parts(connecting).2);
    let fast = async || {
        let (near, far) = duplex(WIRE);
        first_byte(async { stream(world.connect(near).await?).await }, async {
            stream(world.accept(far).await?).await
        })
        .await
    };
    fast().await?;
    let (mut added, mut allowed) = (Vec::with_capacity(TRIPS), Vec::with_capacity(TRIPS));
    for _ in 0..TRIPS {
        let (near, far) = slow_wire();
        let plain = first_byte(peer.connect(near), peer.accept(far)).await?;
        let (near, far) = slow_wire();
        let attested = first_byte(async { stream(world.connect(near).await?).await }, async {
            stream(world.accept(far).await?).await
        })
        .await?;
        added.push(attested - plain);
        // What it computes, quotes and verification, shows on a wire without length.
        allowed.push(2.0 * ONE_WAY.as_secs_f64() * 1e3 + fast().await?);
    }
    Ok(Number::new("round trips of attestation", Unit::Milliseconds, &added)
        .beside("one round trip (100 ms), quotes and verification", &allowed)
        .limit(Limit::TimesPeer(ROUND_TRIP))
        .covers(
            "what a mutual exchange adds to plain rustls until the responder has the initiator's first byte, on a wire of \
             50 ms each way",
        ))
}
