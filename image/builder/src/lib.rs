//! Recipe to locked recipe to artifacts; drives mkosi; proves two builds equal.
