//! Frames of the exchange: a big-endian `u32` length and that many bytes.
//!
//! Memory grows with the bytes that arrived, never with the length that a peer claims.

use crate::error::{ChannelError, Step};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one frame of at most `max` bytes within the step's deadline.
pub(crate) async fn read<S>(io: &mut S, step: Step, max: usize) -> Result<Vec<u8>, ChannelError>
where
    S: AsyncRead + Unpin,
{
    within(step, async {
        let header = exactly(io, step, 4).await?;
        let claimed = header.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
        if claimed > max {
            return Err(ChannelError::Oversized { step, claimed, max });
        }
        exactly(io, step, claimed).await
    })
    .await
}

/// Writes one frame and flushes it within the step's deadline. `body` is our own and fits a `u32`.
pub(crate) async fn write<S>(io: &mut S, step: Step, body: &[u8]) -> Result<(), ChannelError>
where
    S: AsyncWrite + Unpin,
{
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    // One buffer, so that the frame leaves in as few records and segments as it can.
    let frame = [&len.to_be_bytes(), body].concat();
    within(step, async {
        let sent = match io.write_all(&frame).await {
            Ok(()) => io.flush().await,
            Err(error) => Err(error),
        };
        sent.map_err(|error| ChannelError::from_io(step, 0, error))
    })
    .await
}

/// Runs one step under its deadline.
pub(crate) async fn within<T>(
    step: Step,
    work: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, ChannelError> {
    match tokio::time::timeout(step.deadline(), work).await {
        Ok(result) => result,
        Err(_) => Err(ChannelError::Deadline { step }),
    }
}

async fn exactly<S>(io: &mut S, step: Step, len: usize) -> Result<Vec<u8>, ChannelError>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = Vec::new();
    let read = io.take(len as u64).read_to_end(&mut bytes).await;
    match read {
        Ok(received) if received == len => Ok(bytes),
        Ok(received) => Err(ChannelError::Closed { step, received }),
        Err(error) => Err(ChannelError::from_io(step, bytes.len(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_now(bytes: &[u8], max: usize) -> Result<Vec<u8>, ChannelError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(read(&mut &bytes[..], Step::Evidence, max))
    }

    #[test]
    fn a_frame_survives_the_wire() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut wire = Vec::new();
        runtime.block_on(write(&mut wire, Step::Challenge, b"hello")).unwrap();
        assert_eq!(wire, b"\0\0\0\x05hello");
        assert_eq!(read_now(&wire, 5).unwrap(), b"hello");
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused() {
        let wire = b"\0\0\0\x05hello";
        for end in 0..wire.len() {
            let error = read_now(&wire[..end], 100).unwrap_err();
            assert!(matches!(error, ChannelError::Closed { .. }), "{end}: {error}");
        }
    }

    #[test]
    fn a_frame_over_its_bound_is_refused_before_its_bytes_are_read() {
        let error = read_now(b"\xff\xff\xff\xff", 100).unwrap_err();
        assert!(matches!(error, ChannelError::Oversized { claimed: 0xffff_ffff, max: 100, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(body) = read_now(&bytes, 32) {
                prop_assert!(body.len() <= 32);
                prop_assert_eq!(&bytes[4..4 + body.len()], &body[..]);
            }
        }
    }
}
