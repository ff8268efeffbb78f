//! The static first program: opens dm-verity, switches root.

fn main() {}
