//! Takes the root hash from the kernel command line.

use verity::RootHash;

/// The one `roothash=` parameter; none, two, or one that is not 64 lower-case hex digits is refused.
pub(crate) fn root_hash(cmdline: &str) -> Result<RootHash, String> {
    let mut values = cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("roothash="));
    match (values.next(), values.next()) {
        (Some(one), None) => {
            RootHash::parse("kernel command line, roothash=", one).map_err(|error| error.to_string())
        }
        (None, _) => Err(advise("none")),
        (Some(_), Some(_)) => Err(advise("several")),
    }
}

fn advise(found: &str) -> String {
    format!(
        "kernel command line: expected one roothash= parameter, found {found}; boot the unified kernel image unchanged"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(words: &str) -> String {
        words.replace('@', &"5a".repeat(32))
    }

    #[test]
    fn the_root_hash_is_found_among_other_words() {
        let root = root_hash(&line("console=ttyS0 roothash=@ quiet\n")).unwrap();
        assert_eq!(root, RootHash([0x5a; 32]));
    }

    #[test]
    fn cmdline_without_or_with_two_root_hashes_is_refused() {
        for bad in ["quiet", "roothash=@ roothash=@", "xroothash=@", "", "roothash"] {
            assert!(root_hash(&line(bad)).unwrap_err().contains("expected one roothash="), "accepted {bad}");
        }
    }

    #[test]
    fn a_root_hash_that_is_not_64_hex_digits_is_refused() {
        for bad in ["roothash=", "roothash=@0", "roothash=\"@\"", "roothash=sha256:@", "roothash=@,x"] {
            assert!(root_hash(&line(bad)).is_err(), "accepted {bad}");
        }
    }

    proptest! {
        #[test]
        fn any_command_line_is_read_or_refused(words in "\\PC{0,200}") {
            let _ = root_hash(&words);
            let _ = root_hash(&format!("roothash={words}"));
        }
    }
}
