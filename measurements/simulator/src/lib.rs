//! A simulated TDX platform, for the debug profile and tests only.
