//! Event logs, for tests and as seeds for fuzzing.

use super::{EV_NO_ACTION, SPEC_ID};
use sha2::{Digest, Sha256, Sha384};

/// Builds a log with SHA-256 and SHA-384 digests of each event's data.
pub fn log(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut header = SPEC_ID.to_vec();
    header.extend([0; 8]);
    header.extend(2u32.to_le_bytes());
    for (id, size) in [(0x0bu16, 32u16), (0x0c, 48)] {
        header.extend(id.to_le_bytes());
        header.extend(size.to_le_bytes());
    }
    header.push(0);
    let mut log = [0u32.to_le_bytes(), EV_NO_ACTION.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend((header.len() as u32).to_le_bytes());
    log.extend(header);
    for (pcr, event_type, data) in events {
        for word in [*pcr, *event_type, 2] {
            log.extend(word.to_le_bytes());
        }
        log.extend(0x0bu16.to_le_bytes());
        log.extend(Sha256::digest(data));
        log.extend(0x0cu16.to_le_bytes());
        log.extend(Sha384::digest(data));
        log.extend((data.len() as u32).to_le_bytes());
        log.extend(*data);
    }
    log
}
