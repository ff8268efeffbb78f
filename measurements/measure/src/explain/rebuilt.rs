//! A UKI as it would be after a change of its command line alone, in the same layout.
//!
//! RTMR2 tells which words changed. If the image was made again by the same tools from the same parts, RTMR1 follows: the
//! section's bytes and its length in the header are all that differs, as long as the line still fits the section's place.

use crate::pe::Image;
use crate::register::Digest384;

/// Name in a section header: eight bytes.
const NAME: &[u8; 8] = b".cmdline";

/// Authenticode digest of a UKI whose command line `from` was replaced by `to`; `None` if it isn't there or doesn't fit.
pub(super) fn digest(uki: &[u8], from: &str, to: &str) -> Option<Digest384> {
    let image = Image::parse(uki).ok()?;
    let section = image.sections.iter().find(|section| section.name == ".cmdline")?;
    let old = uki.get(section.file.clone())?;
    let text = std::str::from_utf8(old.get(..section.virtual_size as usize)?).ok()?;
    let at = text.find(from)?;
    let new = [&text[..at], to, &text[at + from.len()..]].concat();
    if new.len() > old.len() {
        return None;
    }
    let header = header(uki, section.file.start)?;
    let mut rebuilt = uki.to_vec();
    rebuilt[header + 8..header + 12].copy_from_slice(&u32::try_from(new.len()).ok()?.to_le_bytes());
    let place = &mut rebuilt[section.file.clone()];
    place.fill(0);
    place[..new.len()].copy_from_slice(new.as_bytes());
    Some(Image::parse(&rebuilt).ok()?.authenticode_ranges().ok()?.sha384())
}

/// Offset of the section's header: name, virtual size, address, raw size, raw offset.
fn header(uki: &[u8], start: usize) -> Option<usize> {
    let front = &uki[..start.min(uki.len())];
    let places = front.windows(NAME.len()).enumerate().filter(|(_, window)| window == NAME).map(|(at, _)| at);
    let raw = u32::try_from(start).ok()?.to_le_bytes();
    places.into_iter().find(|at| front.get(at + 20..at + 24) == Some(&raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use proptest::prelude::*;

    fn authenticode(uki: &[u8]) -> Digest384 {
        Image::parse(uki).unwrap().authenticode_ranges().unwrap().sha384()
    }

    #[test]
    fn a_rebuilt_image_is_that_of_the_changed_line() {
        let uki = samples::uki(b"quiet loglevel=4");
        let other = authenticode(&samples::uki(b"quiet loglevel=4 debug"));
        assert_eq!(digest(&uki, "quiet loglevel=4", "quiet loglevel=4 debug"), Some(other));
        assert_eq!(digest(&uki, "absent", "x"), None);
        assert_eq!(digest(&uki, "quiet", &"x".repeat(5000)), None);
    }

    proptest! {
        #[test]
        fn hostile_images_never_panic(at in 0usize..1000, value: u32, cut in 0usize..4000) {
            let mut uki = samples::uki(b"quiet");
            uki[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = digest(&uki, "quiet", "debug");
            let _ = digest(&uki[..cut.min(uki.len())], "quiet", "debug");
        }
    }
}
