# Everything that needs no input: nix itself, the locks of this checkout, and downloads that are pinned by hash.
#
#   Cargo.lock, image/*.lock, rust-toolchain.toml --pins.nix--> plain data --download.nix--> fixed outputs
#                                                                                |
#                                              kit.nix (an index over them), sources.nix (unpacked)
{ checkout, system }:
let
  pins = import ./pins.nix { inherit checkout; };
  download = import ./download.nix { inherit system; };
  kit = import ./kit.nix { inherit system; };
  filtered = import ./source.nix { inherit checkout; };
in
{
  inherit pins;
  inherit (filtered) source measured;

  # Archives of the pinned compiler and of cargo, by component.
  toolchain = builtins.mapAttrs (_: download) pins.rust.components;

  # Indexes of what a rebuild needs; building one makes sure that every part can be had and has its hash.
  kit-crates = kit "chrysalis-kit-crates" (map download pins.crates);
  kit-image = kit "chrysalis-kit-image" (map download pins.debian.image);
  kit-tools = kit "chrysalis-kit-tools" (map download pins.debian.tools);

  # The sources of every crate that a program of ours may link, for reading.
  sources-of = import ./sources.nix { inherit checkout system pins download; };
}
