//! First service: measures the configuration, opens the model disk, opens the gate.

fn main() {}
