//! Inference with burn; no network.
