# The proxy's daemon, linked against nixpkgs' C library: for running it outside of an image.
{ rust, ... }:
rust.program {
  name = "chrysalis-proxy";
  package = "proxy";
  description = "Passes requests of attested clients to attested workers";
}
