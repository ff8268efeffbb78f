//! Attester on configfs-tsm.
