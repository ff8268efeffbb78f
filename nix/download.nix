# One file from the network, named by its hash. Where the store has it already, nothing is fetched.
{ system }:
{ name, url, sha256, ... }:
derivation {
  inherit name url system;
  builder = "builtin:fetchurl";
  outputHashMode = "flat";
  outputHashAlgo = "sha256";
  outputHash = sha256;
  preferLocalBuild = true;
  urls = [ url ];
}
