# The pinned compiler as a package of nixpkgs, and how our programs are compiled with it.
{ pkgs, alone, checkout }:
let
  inherit (alone) pins source;
  manifest = builtins.fromTOML (builtins.readFile (checkout + "/Cargo.toml"));

  toolchain = pkgs.stdenv.mkDerivation {
    pname = "chrysalis-rust";
    inherit (pins.rust) version;
    srcs = builtins.attrValues alone.toolchain;
    sourceRoot = ".";
    nativeBuildInputs = [ pkgs.autoPatchelfHook ];
    buildInputs = [ pkgs.zlib pkgs.stdenv.cc.cc.lib ];
    dontConfigure = true;
    dontBuild = true;
    installPhase = ''
      for installer in */install.sh; do
        patchShebangs "$installer"
        "$installer" --prefix="$out" --disable-ldconfig
      done
      # As published, before anything is patched: the files that the image's own build is locked to.
      grep -v '^#' ${checkout + "/image/toolchain.lock"} | while read -r sha256 _ _ path; do
        echo "$sha256  $out/$path"
      done | sha256sum --check --quiet
    '';
    # Its libraries carry their own metadata, which stripping would destroy.
    dontStrip = true;
  };
  platform = pkgs.makeRustPlatform {
    cargo = toolchain;
    rustc = toolchain;
  };
in
{
  inherit toolchain;

  # One package of the workspace; `flags` go to rustc, `libraries` to the linker.
  program = { name, package, description, flags ? "", libraries ? [ ] }:
    platform.buildRustPackage {
      pname = name;
      inherit (manifest.workspace.package) version;
      src = source;
      cargoLock.lockFile = checkout + "/Cargo.lock";
      cargoBuildFlags = [ "--package" package "--bins" ];
      buildInputs = libraries;
      env.RUSTFLAGS = flags;
      # Tests run in the tools root (docs/decisions/0010-tests-in-the-tools-root.md).
      doCheck = false;
      meta = {
        inherit description;
        mainProgram = name;
        platforms = [ "x86_64-linux" ];
      };
    };
}
