//! Event logs, for tests and as seeds for fuzzing.

use super::{
    Bank, EV_EFI_ACTION, EV_EFI_BOOT_SERVICES_APPLICATION, EV_EFI_GPT_EVENT, EV_EFI_HANDOFF_TABLES2,
    EV_EFI_PLATFORM_FIRMWARE_BLOB2, EV_EFI_VARIABLE_BOOT, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EVENT_TAG,
    EV_IPL, EV_NO_ACTION, EV_S_CRTM_VERSION, EV_SEPARATOR, SPEC_ID,
};

/// Index, event type and data; the digests are those of the data.
pub type Event<'a> = (u32, u32, &'a [u8]);

/// Builds a log with SHA-256 and SHA-384 digests of each event's data.
pub fn log(events: &[Event<'_>]) -> Vec<u8> {
    log_with(&[Bank::Sha256, Bank::Sha384], events)
}

/// Builds a log with these banks.
pub fn log_with(banks: &[Bank], events: &[Event<'_>]) -> Vec<u8> {
    let mut header = SPEC_ID.to_vec();
    header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    header.extend((banks.len() as u32).to_le_bytes());
    for bank in banks {
        header.extend(bank.id().to_le_bytes());
        header.extend((bank.size() as u16).to_le_bytes());
    }
    header.push(0);
    let mut log = [0u32.to_le_bytes(), EV_NO_ACTION.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend((header.len() as u32).to_le_bytes());
    log.extend(header);
    for (index, event_type, data) in events {
        for word in [*index, *event_type, banks.len() as u32] {
            log.extend(word.to_le_bytes());
        }
        for bank in banks {
            log.extend(bank.id().to_le_bytes());
            log.extend(bank.hash([data, &[]]));
        }
        log.extend((data.len() as u32).to_le_bytes());
        log.extend(*data);
    }
    log
}

/// A log with an event of every form that firmware and boot loaders use, as a confidential guest's firmware would record
/// them (RTMR0 to RTMR2), SHA-384 alone.
pub fn ccel() -> Vec<u8> {
    let data = forms();
    let events: Vec<Event<'_>> = data.iter().map(|(i, _, t, d)| (*i, *t, d.as_slice())).collect();
    log_with(&[Bank::Sha384], &events)
}

/// The same events as a TPM's log has them, SHA-256 and SHA-384, behind the firmware's version in PCR 0.
pub fn tpm() -> Vec<u8> {
    let data = forms();
    let version: Event<'_> = (0, EV_S_CRTM_VERSION, b"1\0.\0\0\0");
    let events = data.iter().map(|(_, pcr, t, d)| (*pcr, *t, d.as_slice()));
    log(&std::iter::once(version).chain(events).collect::<Vec<_>>())
}

/// MR index, PCR, type and data.
fn forms() -> Vec<(u32, u32, u32, Vec<u8>)> {
    let hob = [&b"\x08TdxTable"[..], &1u64.to_le_bytes(), &[0xaf; 16], &0x80_9000u64.to_le_bytes()].concat();
    let volume = [&b"\x03Fv("[..], &0xffc0_0000u64.to_le_bytes(), &0x84000u64.to_le_bytes()].concat();
    let file = [&[4, 4, 8, 0, b'k', 0, 0, 0][..], &[0x7f, 0xff, 4, 0]].concat();
    let length = (file.len() as u64).to_le_bytes();
    let image = [&0x1000u64.to_le_bytes()[..], &0x2000u64.to_le_bytes(), &[0; 8], &length, &file].concat();
    let option = [&[1, 0, 0, 0, 12, 0, b'U', 0, 0, 0][..], &file].concat();
    let tag = |text: &[u8]| [&[1, 2, 3, 4][..], &(text.len() as u32).to_le_bytes(), text].concat();
    let table = [&[0; 92][..], &1u64.to_le_bytes(), &[7; 128]].concat();
    vec![
        (1, 1, EV_EFI_HANDOFF_TABLES2, hob),
        (1, 1, EV_EFI_PLATFORM_FIRMWARE_BLOB2, volume),
        (1, 7, EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", &[0])),
        (1, 7, EV_SEPARATOR, vec![0; 4]),
        (1, 1, EV_EFI_VARIABLE_BOOT, variable("BootOrder", &[0, 0])),
        (1, 1, EV_EFI_VARIABLE_BOOT, variable("Boot0000", &option)),
        (2, 4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option".to_vec()),
        (2, 5, EV_EFI_GPT_EVENT, table),
        (2, 4, EV_EFI_BOOT_SERVICES_APPLICATION, image),
        (3, 11, EV_IPL, b".\0l\0i\0n\0u\0x\0\0\0".to_vec()),
        (3, 9, EV_EVENT_TAG, tag(b"Linux initrd\0")),
    ]
}

fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let counts = [(units.len() as u64 / 2).to_le_bytes(), (value.len() as u64).to_le_bytes()].concat();
    [&[0x61; 16][..], &counts, &units, value].concat()
}
