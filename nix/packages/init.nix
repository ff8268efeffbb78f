# The guest's first service, linked against nixpkgs' C library: for looking at, not for an image.
{ rust, ... }:
rust.program {
  name = "chrysalis-init";
  package = "init";
  description = "First service of the guest";
}
