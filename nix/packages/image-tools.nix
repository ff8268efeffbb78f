# What builds and runs an image, in nixpkgs' versions: for a machine that has no Debian tools root. A released image comes from
# the locked tools root alone. Every package of image/tools.packages has its counterpart here, or null and the reason.
{ pkgs, checkout, ... }:
let
  inherit (builtins) attrNames attrValues elemAt filter isString match readFile split toJSON;
  counterparts = {
    apt = pkgs.apt;
    busybox-static = pkgs.pkgsStatic.busybox;
    ca-certificates = pkgs.cacert;
    cryptsetup-bin = pkgs.cryptsetup;
    debian-archive-keyring = null; # locks are moved on Debian
    dosfstools = pkgs.dosfstools;
    erofs-utils = pkgs.erofs-utils;
    gcc = pkgs.gcc;
    "g++" = null; # part of gcc
    kmod = pkgs.kmod;
    libc6-dev = null; # part of gcc
    make = pkgs.gnumake;
    mkosi = pkgs.mkosi;
    mtools = pkgs.mtools;
    ovmf = pkgs.OVMF.fd;
    python3-pip = pkgs.python3Packages.pip;
    qemu-system-x86 = pkgs.qemu_kvm;
    swtpm = pkgs.swtpm;
    swtpm-tools = null; # part of swtpm
    systemd = pkgs.systemd;
    systemd-repart = null; # part of systemd
    systemd-ukify = pkgs.systemdUkify;
    util-linux = pkgs.util-linux;
    xz-utils = pkgs.xz;
    zstd = pkgs.zstd;
  };
  lines = filter isString (split "\n" (readFile (checkout + "/image/tools.packages")));
  names = map (found: elemAt found 0) (filter (m: m != null) (map (match "([^# ]+) *(#.*)?") lines));
  missing = filter (name: !(counterparts ? ${name})) names;
  surplus = filter (name: !(builtins.elem name names)) (attrNames counterparts);
in
if missing != [ ] || surplus != [ ] then
  throw ("nix/packages/image-tools.nix and image/tools.packages differ: without a counterpart "
    + "${toJSON missing}, without a reason to be there ${toJSON surplus}")
else
  pkgs.buildEnv {
    name = "chrysalis-image-tools";
    paths = filter (package: package != null) (attrValues counterparts);
  }
