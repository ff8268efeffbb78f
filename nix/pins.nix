# The pins, read from the files that pin: nothing is written down twice, so nothing can drift. The one thing that is written
# here and nowhere else is the hashes of the compiler's archives, and those name the version that they are of.
{ checkout }:
let
  inherit (builtins) elemAt filter fromTOML isString match readFile split;
  toml = path: fromTOML (readFile (checkout + path));
  lines = text: filter (line: isString line && line != "") (split "\n" text);

  wanted = (toml "/rust-toolchain.toml").toolchain;
  archives = import ./toolchain.nix;
  rust =
    if archives.version == wanted.channel then
      { inherit (archives) version components; }
    else
      throw ("nix/toolchain.nix holds the hashes of Rust ${archives.version}, rust-toolchain.toml asks for "
        + "${wanted.channel}: take the new ones from that release's channel manifest");

  # Where the registry of a lock serves its files, from the name of its index.
  files = source: "https://static." + elemAt (match "registry\\+.*/([^/]+)-index" source) 0 + "/crates";
  crate = { name, version, source, checksum, ... }: {
    name = "${name}-${version}.crate";
    sha256 = checksum;
    url = "${files source}/${name}/${name}-${version}.crate";
  };

  # A line of a Debian lock: name version architecture sha256 size pool/path
  package = snapshot: line:
    let
      field = elemAt (filter isString (split " " line));
    in
    {
      # The cache's own name for it: a version may hold signs that a store path may not.
      name = "${field 3}.deb";
      sha256 = field 3;
      url = "https://snapshot.debian.org/archive/debian/${snapshot}/${field 5}";
      package = field 0;
      version = field 1;
    };
  debian = path:
    let
      all = lines (readFile (checkout + path));
      moment = filter (m: m != null) (map (match "# snapshot: ([0-9TZ]+)") all);
    in
    map (package (elemAt (elemAt moment 0) 0)) (filter (line: match "#.*" line == null) all);
in
{
  inherit rust;
  crates = map crate (filter (p: p ? checksum) (toml "/Cargo.lock").package);
  debian.image = debian "/image/packages.lock";
  debian.tools = debian "/image/tools.lock";
}
