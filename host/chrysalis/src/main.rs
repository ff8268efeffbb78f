//! The one command-line front door.

fn main() {}
