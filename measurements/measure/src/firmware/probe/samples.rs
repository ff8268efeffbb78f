//! Small modules with the texts and calls that are looked for.

use super::{CALLING, LEA};
use crate::pe::samples::pe;

/// A TD measurement module that measures the separator with this argument, or with none.
pub fn td_tcg2(argument: Option<u32>) -> Vec<u8> {
    let mut calls = vec![0xe8, 1, 2, 3, 4];
    if let Some(argument) = argument {
        calls = [&[0xbf, 2, 0, 0, 0], &calls[..], &[0xbf], &argument.to_le_bytes()].concat();
    }
    calls.extend([0xe8, 1, 2, 3, 4, 0xeb, 0x22]);
    let back = |code: usize| (-((code + LEA) as i32)).to_le_bytes();
    let mut text = CALLING.to_vec();
    text.extend([0x48, 0x8d, 0x35]);
    text.extend(back(CALLING.len()));
    text.extend(calls);
    // The second use, for later attempts, has one call only.
    let at = text.len();
    text.extend([0x48, 0x8d, 0x35]);
    text.extend(back(at));
    text.extend([0xbf, 2, 0, 0, 0, 0xe8, 1, 2, 3, 4, 0x48, 0xff, 0x05]);
    pe(&[(".text", &text)], b"", b"")
}

/// A boot manager that holds this text.
pub fn bds(text: &[u8]) -> Vec<u8> {
    pe(&[(".text", &[&[0xff], text, &[0], b"kernel \0"].concat())], b"", b"")
}
