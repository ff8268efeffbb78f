//! A local TON chain as a process.
fn main() {}
