# A STUB of nixpkgs for machines that can't fetch it: enough to evaluate this flake's packages, nothing that can be built.
{
  outputs = _: { legacyPackages.x86_64-linux = import ./default.nix; };
}
