# The static first program of the guest, with the flags that the image's own build gives it.
{ pkgs, rust, ... }:
rust.program {
  name = "initrd";
  package = "initrd";
  description = "Opens dm-verity and switches to the root";
  flags = "-Ctarget-feature=+crt-static -Crelocation-model=static";
  libraries = [ pkgs.glibc.static ];
}
