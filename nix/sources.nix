# The sources of every crate that one of our programs may link, unpacked side by side, with the index of their archives: what
# a reviewer reads. As in Cargo.lock, the dependencies of every target and of every feature are in.
{ checkout, system, pins, download }:
program:
let
  inherit (builtins) elemAt filter genericClosure groupBy head isString readFile split;
  packages = (builtins.fromTOML (readFile (checkout + "/Cargo.lock"))).package;
  byName = groupBy (package: package.name) packages;
  # A dependency is `name` where only one version is locked, else `name version`.
  find = dependency:
    let
      word = elemAt (filter isString (split " " dependency));
      versions = byName.${word 0};
    in
    if builtins.length versions == 1 then
      head versions
    else
      head (filter (package: package.version == word 1) versions);
  node = package: {
    key = "${package.name}-${package.version}";
    inherit package;
  };
  linked = map (found: found.package) (genericClosure {
    startSet = [ (node (find program)) ];
    operator = found: map (dependency: node (find dependency)) (found.package.dependencies or [ ]);
  });
  pinned = groupBy (pin: pin.name) pins.crates;
  archive = package: download (head pinned."${package.name}-${package.version}.crate");
  unpacked = package:
    derivation {
      name = "${package.name}-${package.version}";
      inherit system;
      builder = "builtin:unpack-channel";
      channelName = "${package.name}-${package.version}";
      src = archive package;
    };
  crates = filter (package: package ? checksum) linked;
  index = import ./kit.nix { inherit system; } "chrysalis-crates-${program}" (
    map archive crates
  );
in
derivation {
  name = "chrysalis-sources-${program}";
  inherit system;
  builder = "builtin:buildenv";
  # Each: used, priority, number of outputs, outputs.
  derivations = map (package: [ "true" 5 1 (unpacked package) ]) crates;
  manifest = index;
}
