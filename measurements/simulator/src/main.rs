//! `chrysalis-simulator`: the SIMULATED TDX platform's program. A routing table; one file a subcommand.

fn main() {}
