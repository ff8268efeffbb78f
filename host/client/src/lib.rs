//! Verifies a worker, then asks it.
