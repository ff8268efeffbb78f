//! A small AML encoder (ACPI 6.5, chapter 20.2): each function returns the bytes of one term.

/// Encoded bytes of a term.
pub(super) type Term = Vec<u8>;

/// Joins terms.
pub(super) fn join(terms: impl IntoIterator<Item = Term>) -> Term {
    let mut out = Term::new();
    terms.into_iter().for_each(|term| out.extend_from_slice(&term));
    out
}

/// PkgLength (20.2.4) of `length` bytes; `own` says whether it counts its own bytes.
pub(super) fn package_length(length: usize, own: bool) -> Vec<u8> {
    let size = match length {
        0..=0x3e => 1,
        0x3f..=0xffd => 2,
        0xffe..=0xf_fffc => 3,
        _ => 4,
    };
    let value = if own { length + size } else { length };
    if size == 1 {
        return vec![value as u8];
    }
    let mut out = vec![((size - 1) << 6 | (value & 0xf)) as u8];
    out.extend((0..size - 1).map(|i| (value >> (4 + 8 * i)) as u8));
    out
}

/// A term with a package length: opcode, length, head, body.
fn block(opcode: &[u8], head: Term, body: impl IntoIterator<Item = Term>) -> Term {
    let mut content = head;
    body.into_iter().for_each(|term| content.extend_from_slice(&term));
    let length = package_length(content.len(), true);
    let mut out = Term::with_capacity(opcode.len() + length.len() + content.len());
    for part in [opcode, &length, &content] {
        out.extend_from_slice(part);
    }
    out
}

/// NameString (20.2.2): root and parent prefixes, then segments padded with underscores.
pub(super) fn name(path: &str) -> Term {
    let tail = path.trim_start_matches(['\\', '^']);
    let mut out = path.as_bytes()[..path.len() - tail.len()].to_vec();
    let segments: Vec<&str> = tail.split('.').collect();
    match segments.as_slice() {
        [""] => out.push(0),
        [_] => {}
        [_, _] => out.push(0x2e),
        more => out.extend([0x2f, more.len() as u8]),
    }
    for segment in segments.iter().filter(|s| !s.is_empty()) {
        out.extend(segment.bytes().chain(std::iter::repeat(b'_')).take(4));
    }
    out
}

/// Integer in its shortest form (20.2.3).
pub(super) fn int(value: u64) -> Term {
    let bytes = value.to_le_bytes();
    match value {
        0 | 1 => vec![value as u8],
        2..=0xff => vec![0x0a, bytes[0]],
        0x100..=0xffff => [&[0x0b], &bytes[..2]].concat(),
        0x1_0000..=0xffff_ffff => [&[0x0c], &bytes[..4]].concat(),
        _ => [&[0x0e], &bytes[..]].concat(),
    }
}

pub(super) fn string(text: &str) -> Term {
    [&[0x0d], text.as_bytes(), &[0]].concat()
}

/// EISA identifier: three letters of five bits, four hex digits, big-endian in a DWord.
pub(super) fn eisa_id(id: &str) -> Term {
    let letters = id.bytes().take(3).fold(0u32, |acc, c| acc << 5 | u32::from(c - 0x40));
    let digits = u32::from_str_radix(&id[3..], 16).unwrap_or_default();
    [&[0x0c], &(letters << 16 | digits).to_be_bytes()[..]].concat()
}

/// Buffer that holds a UUID in mixed-endian order (ToUUID).
pub(super) fn uuid(text: &str) -> Term {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let raw = hex::decode(digits).unwrap_or_default();
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    buffer(&order.map(|i| raw.get(i).copied().unwrap_or_default()))
}

pub(super) fn buffer(bytes: &[u8]) -> Term {
    block(&[0x11], int(bytes.len() as u64), [bytes.to_vec()])
}

/// Buffer of resource descriptors with an end tag whose checksum is left zero (6.4.2.9).
pub(super) fn resources(descriptors: impl IntoIterator<Item = Term>) -> Term {
    let mut bytes = join(descriptors);
    bytes.extend([0x79, 0]);
    buffer(&bytes)
}

/// Package with a fixed element count, which may exceed the elements given.
pub(super) fn package(count: u8, elements: impl IntoIterator<Item = Term>) -> Term {
    block(&[0x12], vec![count], elements)
}

pub(super) fn scope(path: &str, body: impl IntoIterator<Item = Term>) -> Term {
    block(&[0x10], name(path), body)
}

pub(super) fn device(path: &str, body: impl IntoIterator<Item = Term>) -> Term {
    block(&[0x5b, 0x82], name(path), body)
}

/// Processor with no register block.
pub(super) fn processor(path: &str, id: u8, body: impl IntoIterator<Item = Term>) -> Term {
    let head = [name(path), vec![id, 0, 0, 0, 0, 0]].concat();
    block(&[0x5b, 0x83], head, body)
}

/// Method that other threads may enter.
pub(super) fn method(path: &str, args: u8, body: impl IntoIterator<Item = Term>) -> Term {
    block(&[0x14], [name(path), vec![args]].concat(), body)
}

/// Method that only one thread may be in.
pub(super) fn serialized_method(path: &str, args: u8, body: impl IntoIterator<Item = Term>) -> Term {
    block(&[0x14], [name(path), vec![args | 8]].concat(), body)
}

/// Name (declaration).
pub(super) fn declare(path: &str, value: Term) -> Term {
    [vec![0x08], name(path), value].concat()
}

pub(super) fn arg(index: u8) -> Term {
    vec![0x68 + index]
}

pub(super) fn local(index: u8) -> Term {
    vec![0x60 + index]
}

/// Call of a method.
pub(super) fn call(path: &str, args: impl IntoIterator<Item = Term>) -> Term {
    [name(path), join(args)].concat()
}

fn op(opcode: u8, operands: impl IntoIterator<Item = Term>) -> Term {
    let mut out = vec![opcode];
    operands.into_iter().for_each(|operand| out.extend_from_slice(&operand));
    out
}

pub(super) fn give(value: Term) -> Term {
    op(0xa4, [value])
}

pub(super) fn store(value: Term, target: Term) -> Term {
    op(0x70, [value, target])
}

/// And with a target; an empty name discards it.
pub(super) fn and(a: Term, b: Term, target: Term) -> Term {
    op(0x7b, [a, b, target])
}

pub(super) fn or(a: Term, b: Term, target: Term) -> Term {
    op(0x7d, [a, b, target])
}

pub(super) fn shift_left(a: Term, count: Term, target: Term) -> Term {
    op(0x79, [a, count, target])
}

pub(super) fn shift_right(a: Term, count: Term, target: Term) -> Term {
    op(0x7a, [a, count, target])
}

pub(super) fn subtract(a: Term, b: Term, target: Term) -> Term {
    op(0x74, [a, b, target])
}

pub(super) fn increment(target: Term) -> Term {
    op(0x75, [target])
}

pub(super) fn index(of: Term, at: Term) -> Term {
    op(0x88, [of, at, nowhere()])
}

pub(super) fn deref(of: Term) -> Term {
    op(0x83, [of])
}

pub(super) fn size_of(of: Term) -> Term {
    op(0x87, [of])
}

pub(super) fn to_hex_string(of: Term, target: Term) -> Term {
    op(0x98, [of, target])
}

pub(super) fn to_buffer(of: Term, target: Term) -> Term {
    op(0x96, [of, target])
}

pub(super) fn notify(what: Term, value: Term) -> Term {
    op(0x86, [what, value])
}

pub(super) fn equal(a: Term, b: Term) -> Term {
    op(0x93, [a, b])
}

pub(super) fn less(a: Term, b: Term) -> Term {
    op(0x95, [a, b])
}

pub(super) fn greater(a: Term, b: Term) -> Term {
    op(0x94, [a, b])
}

pub(super) fn not(a: Term) -> Term {
    op(0x92, [a])
}

pub(super) fn both(a: Term, b: Term) -> Term {
    op(0x90, [a, b])
}

pub(super) fn either(a: Term, b: Term) -> Term {
    op(0x91, [a, b])
}

/// The null name: a result that is thrown away.
pub(super) fn nowhere() -> Term {
    vec![0]
}

pub(super) fn leave_loop() -> Term {
    vec![0xa5]
}

/// The debug object.
pub(super) fn debug_object() -> Term {
    vec![0x5b, 0x31]
}

pub(super) fn when(condition: Term, body: impl IntoIterator<Item = Term>) -> Term {
    block(&[0xa0], condition, body)
}

pub(super) fn otherwise(body: impl IntoIterator<Item = Term>) -> Term {
    block(&[0xa1], Vec::new(), body)
}

pub(super) fn repeat_while(condition: Term, body: impl IntoIterator<Item = Term>) -> Term {
    block(&[0xa2], condition, body)
}

pub(super) fn mutex(path: &str) -> Term {
    [vec![0x5b, 0x01], name(path), vec![0]].concat()
}

/// Acquire without a timeout.
pub(super) fn acquire(path: &str) -> Term {
    [vec![0x5b, 0x23], name(path), vec![0xff, 0xff]].concat()
}

pub(super) fn release(path: &str) -> Term {
    [vec![0x5b, 0x27], name(path)].concat()
}

pub(super) fn create_dword_field(of: Term, at: u64, path: &str) -> Term {
    op(0x8a, [of, int(at), name(path)])
}

/// Address space of an operation region (20.2.5.2).
#[derive(Clone, Copy)]
pub(super) enum Space {
    Memory = 0,
    Io = 1,
    PciConfig = 2,
}

pub(super) fn operation_region(path: &str, space: Space, offset: u64, length: u64) -> Term {
    [vec![0x5b, 0x80], name(path), vec![space as u8], int(offset), int(length)].concat()
}

/// Access width, lock and update rule of a field list (20.2.5.2).
#[derive(Clone, Copy)]
pub(super) enum Access {
    BytePreserve = 0x01,
    DwordPreserve = 0x03,
    DwordLockPreserve = 0x13,
    ByteWriteZeros = 0x41,
    DwordWriteZeros = 0x43,
}

pub(super) fn field(path: &str, access: Access, entries: impl IntoIterator<Item = Term>) -> Term {
    block(&[0x5b, 0x81], [name(path), vec![access as u8]].concat(), entries)
}

/// Named bits of a field list.
pub(super) fn bits(path: &str, count: usize) -> Term {
    [name(path), package_length(count, false)].concat()
}

/// Skipped bits of a field list.
pub(super) fn skip(count: usize) -> Term {
    [vec![0], package_length(count, false)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lengths_take_one_to_four_bytes() {
        // ACPI 6.5, 20.2.4: the length counts itself, so the steps come early.
        for (length, own, expected) in [
            (0x3e, true, vec![0x3f]),
            (0x3f, true, vec![0x41, 0x04]),
            (0xffd, true, vec![0x4f, 0xff]),
            (0xffe, true, vec![0x81, 0x00, 0x01]),
            (0xf_fffc, true, vec![0x8f, 0xff, 0xff]),
            (0xf_fffd, true, vec![0xc1, 0x00, 0x00, 0x01]),
            (32, false, vec![0x20]),
        ] {
            assert_eq!(package_length(length, own), expected, "{length:#x}");
        }
    }

    #[test]
    fn names_are_padded_and_prefixed() {
        assert_eq!(name("\\"), [b'\\', 0]);
        assert_eq!(name("_SB"), *b"_SB_");
        assert_eq!(name("\\_SB.PCI0"), *b"\\\x2e_SB_PCI0");
        assert_eq!(name("A.B.C"), *b"\x2f\x03A___B___C___");
    }

    #[test]
    fn identifiers_encode_as_the_specification_shows() {
        // PNP0A03 is 0x030AD041 as a little-endian DWord.
        assert_eq!(eisa_id("PNP0A03"), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
        let bytes = uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766");
        assert_eq!(bytes[3..11], [0x10, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c][..8].to_vec()[..]);
    }

    #[test]
    fn integers_take_the_shortest_form() {
        assert_eq!(int(1), [1]);
        assert_eq!(int(0xff), [0x0a, 0xff]);
        assert_eq!(int(0x100), [0x0b, 0, 1]);
        assert_eq!(int(0x1_0000_0000), [0x0e, 0, 0, 0, 0, 1, 0, 0, 0]);
    }
}
