# A STUB of nixpkgs. It knows the names and arguments that the flake uses, each function with a closed list of them, so that a
# misspelt one fails to evaluate. Nothing shows here that the real nixpkgs has them, or that a package builds: building
# any of these fails and says so.
let
  fake = name:
    derivation {
      inherit name;
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ "-c" "echo '${name}: this is the STUB of nixpkgs, nothing can be built with it' >&2; exit 1" ];
    };
  # Of a package that takes parts: they are evaluated too.
  of = name: parts: (fake name) // { drvParts = parts; drvPath = builtins.deepSeq parts (fake name).drvPath; };
  packages = names: builtins.listToAttrs (map (name: { inherit name; value = fake name; }) names);
in
packages [
  "apt" "autoPatchelfHook" "cacert" "cryptsetup" "dosfstools" "erofs-utils" "gcc" "gnumake" "kmod" "mkosi" "mtools"
  "qemu_kvm" "swtpm" "systemd" "systemdUkify" "util-linux" "xz" "zlib" "zstd"
] // {
  OVMF.fd = fake "OVMF";
  glibc.static = fake "glibc-static";
  pkgsStatic.busybox = fake "busybox";
  python3Packages.pip = fake "pip";
  stdenv = {
    cc.cc.lib = fake "gcc-lib";
    mkDerivation =
      { pname, version, srcs, sourceRoot, nativeBuildInputs, buildInputs, dontConfigure, dontBuild, installPhase, dontStrip }:
      of "${pname}-${version}" (map toString (srcs ++ nativeBuildInputs ++ buildInputs) ++ [ installPhase ]);
  };
  makeRustPlatform = { cargo, rustc }: {
    buildRustPackage =
      { pname, version, src, cargoLock, cargoBuildFlags, buildInputs, env, doCheck, meta }:
      of "${pname}-${version}" (
        map toString ([ src cargo.drvPath rustc.drvPath ] ++ cargoBuildFlags ++ buildInputs)
        ++ [ (builtins.readFile cargoLock.lockFile) env.RUSTFLAGS meta.description ]
      );
  };
  buildEnv = { name, paths }: of name (map toString paths);
  mkShell = { packages }: of "shell" (map (package: package.drvPath) packages);
}
