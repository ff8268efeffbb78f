//! The worker daemon: an OpenAI-compatible endpoint behind attested TLS.

fn main() {}
