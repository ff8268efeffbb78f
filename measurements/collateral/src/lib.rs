//! Collateral from where it is published to where it is needed.
