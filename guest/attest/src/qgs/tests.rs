//! The service's side of the conversation, in memory; neither vsock nor the device is there to be asked.

use super::*;
use proptest::prelude::*;

/// An answer with an identity of `identity` bytes and `quote`.
fn answer(identity: usize, quote: &[u8]) -> Vec<u8> {
    let size = (FIXED + identity + quote.len()) as u32;
    let mut bytes = vec![1, 0, 0, 0];
    for word in [GET_QUOTE_RESP, size, 0, identity as u32, quote.len() as u32] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(vec![0xaa; identity]);
    bytes.extend(quote);
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

fn receive_from(mut bytes: &[u8]) -> Result<Vec<u8>, QgsError> {
    receive(&mut bytes, |_| Ok(()), |source| QgsError::Io { cid: 2, port: 4050, source })
}

#[test]
fn a_request_has_the_published_layout() {
    let bytes = request(&[7; TDREPORT]);
    assert_eq!(bytes.len(), 4 + 24 + 1024);
    assert_eq!(bytes[..4], 1048_u32.to_be_bytes());
    assert_eq!(bytes[4..8], [1, 0, 1, 0]);
    assert_eq!(bytes[8..28], [0, 0, 0, 0, 0x18, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0]);
    assert!(bytes[28..].iter().all(|byte| *byte == 7));
}

#[test]
fn a_quote_is_found_behind_any_identity() {
    for identity in [0, 16, MAX_IDENTITY] {
        let message = receive_from(&framed(&answer(identity, b"quote"))).unwrap();
        assert_eq!(answered(&message).unwrap(), b"quote");
    }
}

#[test]
fn a_refusal_is_told_with_its_code() {
    let mut message = answer(0, b"x");
    message[12..16].copy_from_slice(&0x12001_u32.to_le_bytes());
    assert!(matches!(answered(&message), Err(QgsError::Refused { code: 0x12001 })));
}

#[test]
fn answers_of_another_kind_are_refused_by_field() {
    let good = answer(16, b"quote");
    let fields = [(0, "major version"), (4, "type"), (8, "size"), (16, "quote size"), (20, "quote size")];
    for (at, field) in fields {
        let mut message = good.clone();
        message[at] ^= 0x40;
        let error = answered(&message).unwrap_err();
        assert!(matches!(&error, QgsError::Malformed { field: found, .. } if *found == field), "{error}");
    }
    assert!(answered(&good[..20]).unwrap_err().to_string().contains("24 bytes at least"));
}

#[test]
fn a_frame_beyond_a_quote_is_refused_before_its_bytes_are_read() {
    for length in [0, 23, MAX_ANSWER as u32 + 1, u32::MAX] {
        let error = receive_from(&length.to_be_bytes()).unwrap_err();
        assert!(matches!(error, QgsError::Malformed { field: "frame", .. }), "{length}: {error}");
    }
}

#[test]
fn a_service_that_hangs_up_or_dawdles_is_an_error() {
    let bytes = framed(&answer(0, b"quote"));
    for end in 0..bytes.len() {
        assert!(matches!(receive_from(&bytes[..end]), Err(QgsError::Io { .. })));
    }
    let late = |_: &&[u8]| Err(io::ErrorKind::TimedOut.into());
    let result = receive(&mut bytes.as_slice(), late, |source| QgsError::Io { cid: 2, port: 1, source });
    assert!(matches!(result, Err(QgsError::Io { source, .. }) if source.kind() == io::ErrorKind::TimedOut));
}

#[test]
fn a_file_that_is_no_tdx_device_makes_no_report() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Qgs { device: file.path().into(), ..Qgs::default() }.quote(&[0; 64]).unwrap_err();
    assert!(
        matches!(&error, QgsError::Report { source, .. } if source.raw_os_error() == Some(25)),
        "{error}"
    );
}

#[test]
fn a_port_where_nobody_listens_is_an_error() {
    // Without a vsock device there is no such address family, or no such host: an error in each case.
    assert!(sys::connect(2, 0xffff_fff0).is_err());
}

proptest! {
    #[test]
    fn hostile_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = receive_from(&bytes);
        let _ = answered(&bytes);
        let mut message = answer(0, b"quote");
        message.iter_mut().zip(&bytes).for_each(|(byte, noise)| *byte ^= noise & noise.rotate_left(3) & 0x11);
        let _ = answered(&message);
    }
}
