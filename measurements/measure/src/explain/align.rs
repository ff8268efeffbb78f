//! Two lists side by side (longest common subsequence by weight), so that one event too many is one event too many and
//! not a change of everything behind it.

/// A pair, or what only one side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    Both(usize, usize),
    Left(usize),
    Right(usize),
}

/// Aligns lists of these lengths; weight 0 says that two can't be the same.
pub(super) fn align(left: usize, right: usize, weight: impl Fn(usize, usize) -> u32) -> Vec<Pair> {
    let width = right + 1;
    let mut scores = vec![0u32; (left + 1) * width];
    for l in (0..left).rev() {
        for r in (0..right).rev() {
            let both = match weight(l, r) {
                0 => 0,
                weight => weight + scores[(l + 1) * width + r + 1],
            };
            scores[l * width + r] = both.max(scores[(l + 1) * width + r]).max(scores[l * width + r + 1]);
        }
    }
    let (mut l, mut r) = (0, 0);
    let mut out = Vec::with_capacity(left.max(right));
    while l < left || r < right {
        let here = scores[l * width + r];
        let both = if l < left && r < right { weight(l, r) } else { 0 };
        if both > 0 && here == both + scores[(l + 1) * width + r + 1] {
            out.push(Pair::Both(l, r));
            (l, r) = (l + 1, r + 1);
        } else if l < left && here == scores[(l + 1) * width + r] {
            out.push(Pair::Left(l));
            l += 1;
        } else {
            out.push(Pair::Right(r));
            r += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_on_either_side_shifts_nothing() {
        let by = |a: &'static [u8], b: &'static [u8]| align(a.len(), b.len(), |l, r| u32::from(a[l] == b[r]));
        assert_eq!(
            by(b"abc", b"abxc"),
            [Pair::Both(0, 0), Pair::Both(1, 1), Pair::Right(2), Pair::Both(2, 3)]
        );
        assert_eq!(by(b"abc", b"ac"), [Pair::Both(0, 0), Pair::Left(1), Pair::Both(2, 1)]);
        assert_eq!(by(b"", b"a"), [Pair::Right(0)]);
    }
}
