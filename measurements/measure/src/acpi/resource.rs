//! Resource descriptors (ACPI 6.5, chapter 6.4).

use super::aml::Term;

/// I/O port range of 16-bit decode (6.4.2.5).
pub(super) fn io(base: u16, alignment: u8, length: u8) -> Term {
    let [low, high] = base.to_le_bytes();
    vec![0x47, 1, low, high, low, high, alignment, length]
}

/// One ISA interrupt (6.4.2.1).
pub(super) fn irq(number: u8) -> Term {
    let [low, high] = (1u16 << number).to_le_bytes();
    vec![0x22, low, high]
}

/// One ISA interrupt that is level-triggered, active-low and shared.
pub(super) fn shared_irq(number: u8) -> Term {
    let [low, high] = (1u16 << number).to_le_bytes();
    vec![0x23, low, high, 0x18]
}

/// Level-triggered, active-high, shared interrupts of a consumer (6.4.3.6).
pub(super) fn interrupts(numbers: &[u32]) -> Term {
    let length = 2 + 4 * numbers.len() as u16;
    let mut out = vec![0x89];
    out.extend(length.to_le_bytes());
    out.extend([0x09, numbers.len() as u8]);
    numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out
}

/// Fixed 32-bit memory range (6.4.3.4).
pub(super) fn memory32_fixed(base: u32, length: u32, writable: bool) -> Term {
    [&[0x86, 9, 0, u8::from(writable)][..], &base.to_le_bytes(), &length.to_le_bytes()].concat()
}

/// Fixed minimum and maximum, positive decode (6.4.3.5).
const FIXED: u8 = 0x0c;
const WRITABLE: u8 = 1;
const CACHEABLE: u8 = 2;

/// Address range of 2, 4 or 8 byte numbers: granularity, minimum, maximum, translation, length.
fn range(tag: u8, width: usize, kind: [u8; 2], first: u64, last: u64) -> Term {
    let [kind, flags] = kind;
    let mut out = vec![tag];
    out.extend((3 + 5 * width as u16).to_le_bytes());
    out.extend([kind, FIXED, flags]);
    for number in [0, first, last, 0, last.wrapping_sub(first).wrapping_add(1)] {
        out.extend(&number.to_le_bytes()[..width]);
    }
    out
}

pub(super) fn bus_numbers(first: u16, last: u16) -> Term {
    range(0x88, 2, [2, 0], first.into(), last.into())
}

/// Ports, ISA and not (the entire range).
pub(super) fn ports(first: u16, last: u16) -> Term {
    range(0x88, 2, [1, 3], first.into(), last.into())
}

pub(super) fn memory32(first: u32, last: u32) -> Term {
    range(0x87, 4, [0, WRITABLE], first.into(), last.into())
}

pub(super) fn cacheable_memory32(first: u32, last: u32) -> Term {
    range(0x87, 4, [0, WRITABLE | CACHEABLE], first.into(), last.into())
}

pub(super) fn cacheable_memory64(first: u64, last: u64) -> Term {
    range(0x8a, 8, [0, WRITABLE | CACHEABLE], first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_carry_their_length() {
        let ports = ports(0x0d00, 0xffff);
        assert_eq!(ports[..6], [0x88, 0x0d, 0, 1, 0x0c, 3]);
        assert_eq!(ports[14..], [0x00, 0xf3]);
        assert_eq!(cacheable_memory64(0, 9).len(), 3 + 0x2b);
    }
}
