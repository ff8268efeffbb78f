# Chrysalis for users of nix. Thin on purpose: what can be built from this checkout's own locks alone stands in alone.nix and
# needs no input; what needs a compiler's surroundings takes them from nixpkgs, one file a package. The image itself
# is made by mkosi, which knows nothing of this folder (docs/reference/nix.md).
{
  description = "Chrysalis: a bootable confidential VM for private AI";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { nixpkgs, ... }:
    let
      system = "x86_64-linux";
      checkout = ../.;
      alone = import ./alone.nix { inherit checkout system; };
      pkgs = nixpkgs.legacyPackages.${system};
      rust = import ./rust.nix { inherit pkgs alone checkout; };
      package = file: import file { inherit pkgs rust checkout; };
      inputFree = {
        inherit (alone) kit-crates kit-image kit-tools;
        sources-initrd = alone.sources-of "initrd";
        sources-init = alone.sources-of "init";
        sources-proxy = alone.sources-of "proxy";
        sources-worker = alone.sources-of "worker";
      };
    in
    {
      # Plain data, for who wants to compare: `nix eval --json .?dir=nix#pins`.
      inherit (alone) pins source measured;

      packages.${system} = inputFree // {
        default = package ./packages/chrysalis.nix;
        chrysalis = package ./packages/chrysalis.nix;
        initrd = package ./packages/initrd.nix;
        chrysalis-init = package ./packages/init.nix;
        chrysalis-proxy = package ./packages/proxy.nix;
        chrysalis-worker = package ./packages/worker.nix;
        image-tools = package ./packages/image-tools.nix;
        toolchain = rust.toolchain;
      };

      # Only what needs no input, so that this runs offline.
      checks.${system} = { inherit (inputFree) kit-crates sources-initrd; };

      devShells.${system}.default = pkgs.mkShell {
        packages = [
          rust.toolchain
          (package ./packages/image-tools.nix)
        ];
      };
    };
}
