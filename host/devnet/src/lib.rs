//! A local TON chain.
