# The archives of the one compiler, from the channel manifest of its release. A test holds them against the manifest that
# rustup keeps beside the toolchain.
let
  version = "1.95.0";
  day = "2026-04-16";
  archive = part: sha256: rec {
    inherit sha256;
    name = "${part}-${version}-x86_64-unknown-linux-gnu.tar.xz";
    url = "https://static.rust-lang.org/dist/${day}/${name}";
  };
in
{
  inherit version;
  components = builtins.mapAttrs archive {
    cargo = "e74edd2cf7d0f1f1383b4f00eb90c843750bc489e2ccf7214e6476678a907425";
    clippy = "ac779bc9839dd47180806b133e4e2563c4a34716284cd5b8fede8ef289f452ca";
    rust-std = "047ea7098803d3500fa1072e9cee5392697e21525559e4458128a2bf874aa382";
    rustc = "8426a3d170a5879f5682f5fbdd024a1779b3951e7baba685af2d6dc32a6dfc15";
    rustfmt = "f1b2a7301513ffdd95ebf22ebbdd932e4d17fc806f748d93924740d0297b1396";
  };
}
