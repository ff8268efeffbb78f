# The worker's daemon, linked against nixpkgs' C library: for running it outside of an image.
{ rust, ... }:
rust.program {
  name = "chrysalis-worker";
  package = "worker";
  description = "Serves a model behind attested TLS";
}
