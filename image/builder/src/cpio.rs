//! The initrd archive: cpio "newc" (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Reproducible by construction: the caller's order, no times, no owners, inode numbers counted from 1.

/// What an entry is.
pub(crate) enum Node<'a> {
    Folder,
    /// Contents, and whether it can be executed.
    File(&'a [u8], bool),
}

/// Writes an archive; folders must come before what is in them. Names are relative, without a leading slash.
pub(crate) fn write(entries: &[(&str, Node<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, (name, node)) in entries.iter().enumerate() {
        let (mode, data): (u32, &[u8]) = match node {
            Node::Folder => (0o040_755, &[]),
            Node::File(data, true) => (0o100_755, data),
            Node::File(data, false) => (0o100_644, data),
        };
        entry(&mut out, i as u32 + 1, mode, name, data);
    }
    entry(&mut out, 0, 0, "TRAILER!!!", &[]);
    out
}

fn entry(out: &mut Vec<u8>, inode: u32, mode: u32, name: &str, data: &[u8]) {
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    // inode, mode, uid, gid, nlink, mtime, size, dev major and minor, rdev major and minor, name size, check
    let fields = [inode, mode, 0, 0, links, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    fields.iter().for_each(|field| out.extend_from_slice(format!("{field:08X}").as_bytes()));
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_documented_layout() {
        let archive = write(&[("dev", Node::Folder), ("init", Node::File(b"hello", true))]);
        let text = String::from_utf8_lossy(&archive);
        assert!(text.starts_with("07070100000001000041ED00000000000000000000000200000000"));
        let init = text.find("init\0").unwrap();
        // The 110-byte header and the name are padded to 4 bytes together.
        assert_eq!(&archive[init - 110..init - 104], b"070701");
        let data = (init + 5).next_multiple_of(4);
        assert_eq!(&archive[data..data + 5], b"hello");
        assert_eq!(archive.len() % 4, 0);
        assert!(text.contains("TRAILER!!!"));
    }
}
