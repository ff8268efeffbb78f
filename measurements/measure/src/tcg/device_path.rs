//! UEFI device paths as text, one node at a time (UEFI 2.10, chapter 10; the forms of its section 10.6.1 where it names
//! one, and type, subtype and bytes where it does not matter here).

use super::describe::{guid, utf16};

/// PNP0A03, compressed (a PCI root bridge).
const PCI_ROOT: u32 = 0x0a03_41d0;
/// Most nodes of a path that are shown, and most bytes of an unknown one.
const MAX_NODES: usize = 32;
const MAX_BYTES: usize = 16;

/// The nodes up to the end of the path; a node that is cut ends it too.
pub(super) fn nodes(mut path: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    while let [kind, sub, low, high, ..] = *path {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let Some((node, rest)) = path.split_at_checked(length) else { break };
        let Some(body) = node.get(4..) else { break };
        if kind == 0x7f || out.len() == MAX_NODES {
            break;
        }
        out.push(known(kind, sub, body).unwrap_or_else(|| {
            format!("Path({kind},{sub},{})", hex::encode(&body[..body.len().min(MAX_BYTES)]))
        }));
        path = rest;
    }
    out
}

fn known(kind: u8, sub: u8, body: &[u8]) -> Option<String> {
    let word = |at: usize| Some(u32::from_le_bytes(body.get(at..)?.first_chunk().copied()?));
    let long = |at: usize| Some(u64::from_le_bytes(body.get(at..)?.first_chunk().copied()?));
    Some(match (kind, sub) {
        (1, 1) => format!("Pci({:#x},{:#x})", body.get(1)?, body.first()?),
        (2, 1) if word(0)? == PCI_ROOT => format!("PciRoot({:#x})", word(4)?),
        (2, 1) => format!("Acpi({:#x},{:#x})", word(0)?, word(4)?),
        // Signature type 2: a GUID.
        (4, 1) if body.get(37) == Some(&2) => {
            let signature = guid(body.get(20..)?)?;
            format!("HD({},GPT,{signature},{:#x},{:#x})", word(0)?, long(4)?, long(12)?)
        }
        (4, 3) => format!("VenMedia({})", guid(body)?),
        (4, 4) => format!("File({})", utf16(body)),
        (4, 6) => format!("FvFile({})", guid(body)?),
        (4, 7) => format!("Fv({})", guid(body)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_disk_path_reads_as_the_specification_writes_it() {
        let mut path = vec![2, 1, 12, 0];
        path.extend(PCI_ROOT.to_le_bytes());
        path.extend(0u32.to_le_bytes());
        path.extend([1, 1, 6, 0, 0, 3, 3, 23, 5, 0, 9]);
        path.extend([4, 1, 42, 0, 2, 0, 0, 0]);
        path.extend(0x800u64.to_le_bytes());
        path.extend(0x1000u64.to_le_bytes());
        path.extend([0x22; 16]);
        path.extend([2, 2, 0x7f, 0xff, 4, 0, 1, 1]);
        let guid = "22222222-2222-2222-2222-222222222222";
        let hd = format!("HD(2,GPT,{guid},0x800,0x1000)");
        assert_eq!(nodes(&path), ["PciRoot(0x0)", "Pci(0x3,0x0)", "Path(3,23,09)", hd.as_str()]);
    }

    #[test]
    fn a_node_without_length_or_beyond_the_path_ends_it() {
        assert!(nodes(&[4, 4, 0, 0, 1, 2]).is_empty());
        assert!(nodes(&[4, 4, 9, 0, 1, 2]).is_empty());
    }

    proptest! {
        #[test]
        fn hostile_paths_never_panic(bytes in proptest::collection::vec(0u8..9, 0..200)) {
            prop_assert!(nodes(&bytes).len() <= MAX_NODES);
        }
    }
}
