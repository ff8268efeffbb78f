# Parts of the checkout as store paths. A path's name is the hash of its contents, so a change elsewhere leaves it as it is.
{ checkout }:
let
  root = toString checkout;
  # The names that stand at the top of `path`, and whatever lies below them.
  only = name: kept:
    builtins.path {
      inherit name;
      path = checkout;
      filter = path: _:
        builtins.any (top: path == "${root}/${top}" || below "${root}/${top}/" path) kept;
    };
  below = prefix: path: builtins.substring 0 (builtins.stringLength prefix) path == prefix;
  measured = [ "Cargo.lock" "Cargo.toml" "guest" "image" "measurements" "rust-toolchain.toml" ];
in
{
  # What cargo needs to build any program of the workspace.
  source = only "chrysalis-source" (measured ++ [ "LICENSE" "ci" "host" ]);
  # What can move a measurement.
  measured = only "chrysalis-measured" measured;
}
