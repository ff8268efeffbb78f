//! Pure appraisal of TDX evidence: quote, event log, configuration.
