//! Stories that boot the image in a VM.
