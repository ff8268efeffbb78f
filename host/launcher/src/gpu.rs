//! GPUs and NVSwitches for guests: which mode they are in, how they get into another, and to whom they belong.
pub mod chip;
