# An index of downloads: hash, store path and address of each, a line. The builder is nix's own sandbox shell, which has no
# programs beside it: `read` and `printf` are all it needs.
{ system }:
name: parts:
derivation {
  inherit name system;
  builder = "/bin/sh";
  args = [
    "-euc"
    ''
      while read -r sha256 path url; do
        [ -s "$path" ] || exit 1
        printf '%s  %s  %s\n' "$sha256" "''${path##*/}" "$url"
      done <"$listPath" >"$out"
    ''
  ];
  # Too long for an environment.
  passAsFile = [ "list" ];
  list = builtins.concatStringsSep "" (map (part: "${part.outputHash} ${part} ${part.url}\n") parts);
}
