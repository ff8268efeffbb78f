//! Command lines word by word: which words differ, and the neighbourhood that a search walks through.
//!
//! A log carries the digest of a command line and not its text, so a changed word is found by trying changes until the
//! digest comes out. What people change is known: they drop a word, add one to debug, or give one another value.

use serde::Serialize;

/// Words that people add to look into a machine, and values that they change.
const DEBUG_WORDS: [&str; 44] = [
    "debug",
    "console=ttyS0",
    "console=ttyS0,115200",
    "console=ttyS0,115200n8",
    "console=tty0",
    "console=hvc0",
    "earlyprintk=ttyS0",
    "earlyprintk=serial",
    "earlycon",
    "ignore_loglevel",
    "loglevel=3",
    "loglevel=4",
    "loglevel=7",
    "loglevel=8",
    "quiet",
    "single",
    "emergency",
    "rescue",
    "rw",
    "ro",
    "nokaslr",
    "nosmp",
    "nomodeset",
    "panic=-1",
    "panic=0",
    "panic=1",
    "panic=30",
    "rd.break",
    "rd.debug",
    "rd.shell",
    "rd.udev.log_level=debug",
    "init=/bin/sh",
    "init=/bin/bash",
    "rdinit=/bin/sh",
    "selinux=0",
    "enforcing=0",
    "apparmor=0",
    "lockdown=none",
    "module.sig_enforce=0",
    "systemd.log_level=debug",
    "systemd.log_target=console",
    "systemd.journald.forward_to_console=1",
    "systemd.debug-shell=1",
    "systemd.unit=rescue.target",
];
/// Values that are tried for each `name=value` word.
const VALUES: [&str; 12] = ["0", "1", "2", "3", "4", "7", "8", "yes", "no", "on", "off", "ttyS0,115200"];
/// A number is also tried up by this much and down by this much.
const NUMBERS_AROUND: i64 = 16;
/// Pairs of changes are tried while a line has no more words: beyond, their number explodes.
const MAX_WORDS_FOR_PAIRS: usize = 48;
/// Longest line whose neighbourhood is walked (Linux takes 2,048 bytes on x86).
const MAX_LINE: usize = 8192;

/// A word of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "word")]
pub enum Word {
    /// In both.
    Same(String),
    /// Only in what was expected.
    Removed(String),
    /// Only in what was found.
    Added(String),
}

/// Compares two lines word by word (longest common subsequence; of very long lines, as a whole).
pub fn diff(expected: &str, found: &str) -> Vec<Word> {
    let (a, b): (Vec<&str>, Vec<&str>) =
        (expected.split_whitespace().collect(), found.split_whitespace().collect());
    if a.len().saturating_mul(b.len()) > 1 << 20 {
        return vec![Word::Removed(expected.to_owned()), Word::Added(found.to_owned())];
    }
    let width = b.len() + 1;
    let mut common = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                1 + common[(i + 1) * width + j + 1]
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push(Word::Same(a[i].to_owned()));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            out.push(Word::Removed(a[i].to_owned()));
            i += 1;
        } else {
            out.push(Word::Added(b[j].to_owned()));
            j += 1;
        }
    }
    out
}

/// The differing words in one phrase: `without "quiet"; with "debug"`.
pub fn phrase(words: &[Word]) -> String {
    let mut parts = Vec::new();
    for word in words {
        match word {
            Word::Same(_) => {}
            Word::Removed(word) => parts.push(format!("without {word:?}")),
            Word::Added(word) => parts.push(format!("with {word:?}")),
        }
    }
    if parts.is_empty() { "with other white space".to_owned() } else { parts.join(", ") }
}

/// Lines one change away from a line, then, of short lines, two; never the line itself, none twice in a row.
pub(super) fn neighbours(line: &str, pairs: bool) -> Vec<String> {
    if line.len() > MAX_LINE {
        return Vec::new();
    }
    let once = changed_once(line);
    let few = line.split_whitespace().count() <= MAX_WORDS_FOR_PAIRS;
    if !pairs || !few {
        return once;
    }
    let twice = once.iter().flat_map(|changed| dropped_or_added(changed));
    twice.filter(|twice| twice != line).collect()
}

fn changed_once(line: &str) -> Vec<String> {
    let mut out = dropped_or_added(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    for (i, word) in words.iter().enumerate() {
        if let Some((name, value)) = word.split_once('=') {
            let others = other_values(value);
            out.extend(others.iter().map(|other| replaced(&words, i, &format!("{name}={other}"))));
        }
        if i + 1 < words.len() {
            let mut swapped = words.clone();
            swapped.swap(i, i + 1);
            out.push(swapped.join(" "));
        }
    }
    // White space that an editor leaves or a script adds.
    out.extend([format!("{line} "), format!(" {line}"), format!("{line}\n")]);
    out
}

/// Values that people give instead of this one.
fn other_values(value: &str) -> Vec<String> {
    let number: Option<i64> = value.parse().ok();
    let around = number.into_iter().flat_map(|n| {
        (1..=NUMBERS_AROUND).flat_map(move |by| [n.checked_add(by), n.checked_sub(by)]).flatten()
    });
    let mut out: Vec<String> =
        VALUES.iter().filter(|other| **other != value).map(|v| (*v).to_owned()).collect();
    out.extend(around.map(|n| n.to_string()).filter(|n| !VALUES.contains(&n.as_str())));
    out
}

fn dropped_or_added(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let without = |i: usize| [&words[..i], &words[i + 1..]].concat().join(" ");
    let mut out: Vec<String> = (0..words.len()).map(without).collect();
    for added in DEBUG_WORDS {
        let name = added.split('=').next().unwrap_or(added);
        out.extend(
            places(&words).into_iter().map(|at| [&words[..at], &[added], &words[at..]].concat().join(" ")),
        );
        // A word of the same name may be replaced instead.
        let same = words.iter().position(|word| added.contains('=') && word.split('=').next() == Some(name));
        out.extend(same.map(|i| replaced(&words, i, added)));
    }
    out
}

/// Where a word may be added: at both ends; the firmware's loader names the initrd outside of what people write.
fn places(words: &[&str]) -> Vec<usize> {
    let is_initrd = |word: Option<&&str>| word.is_some_and(|word| word.starts_with("initrd="));
    let mut places = vec![words.len(), 0];
    places.extend(is_initrd(words.last()).then(|| words.len() - 1));
    places.extend(is_initrd(words.first()).then_some(1));
    places
}

fn replaced(words: &[&str], at: usize, by: &str) -> String {
    let mut words = words.to_vec();
    words[at] = by;
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_replaced_word_is_one_out_and_one_in() {
        let words = diff("root=a quiet panic=1", "root=a debug panic=1");
        assert_eq!(phrase(&words), "without \"quiet\", with \"debug\"");
        assert_eq!(words.len(), 4);
        assert_eq!(phrase(&diff("a b", "a  b")), "with other white space");
    }

    #[test]
    fn words_are_added_before_what_the_loader_adds() {
        let near = neighbours("quiet initrd=initrd", false);
        assert!(near.iter().any(|n| n == "quiet debug initrd=initrd"));
        assert!(near.iter().any(|n| n == "initrd=initrd"), "quiet dropped");
    }

    #[test]
    fn what_people_change_is_in_the_neighbourhood() {
        let line = "root=/dev/dm-0 loglevel=4 quiet";
        let near = neighbours(line, false);
        for changed in [
            "root=/dev/dm-0 quiet",
            "root=/dev/dm-0 loglevel=4 quiet debug",
            "root=/dev/dm-0 loglevel=4 quiet console=ttyS0",
            "root=/dev/dm-0 loglevel=7 quiet",
            "root=/dev/dm-0 loglevel=4",
            "root=/dev/dm-0 loglevel=-9 quiet",
            "root=/dev/dm-0 loglevel=20 quiet",
        ] {
            assert!(near.iter().any(|n| n == changed), "{changed}");
        }
        let twice = neighbours(line, true);
        assert!(twice.iter().any(|n| n == "root=/dev/dm-0 loglevel=4 debug"));
        assert!(!twice.iter().any(|n| n == line));
    }

    proptest! {
        #[test]
        fn a_difference_has_all_words_of_both(a in "[ab ]{0,20}", b in "[ab ]{0,20}") {
            let words = diff(&a, &b);
            let side = |out: fn(&Word) -> Option<&String>| words.iter().filter_map(out).cloned().collect::<Vec<_>>();
            let left = side(|w| match w { Word::Same(w) | Word::Removed(w) => Some(w), Word::Added(_) => None });
            let right = side(|w| match w { Word::Same(w) | Word::Added(w) => Some(w), Word::Removed(_) => None });
            prop_assert_eq!(left, a.split_whitespace().collect::<Vec<_>>());
            prop_assert_eq!(right, b.split_whitespace().collect::<Vec<_>>());
        }

        #[test]
        fn hostile_lines_never_panic(line in "\\PC{0,200}") {
            let _ = neighbours(&line, true);
        }
    }
}
