//! Tasks of the house: up, test, tidy, bench.

fn main() {}
