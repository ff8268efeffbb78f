# Runs one program in the root of nix, in mount and network namespaces of its own: offline whatever the host has. Arguments:
# ROOT, STORE (seen at /nix), SOURCE (seen at /run/source, read-only), then the program and its arguments.
# A pivot, not a chroot: nix's sandbox makes a user namespace, which the kernel refuses to a process in a chroot.
set -eu
umask 022
root=$1 store=$2 source=$3
shift 3
mount --bind "$root" "$root"
for dir in proc sys dev; do mount --rbind "/$dir" "$root/$dir"; done
for dir in run root tmp; do mount -t tmpfs -o mode=755 tmpfs "$root/$dir"; done
mkdir -p "$root/nix" "$root/run/source"
mount --bind "$store" "$root/nix"
mount --bind "$source" "$root/run/source"
mount -o remount,bind,ro "$root/run/source"
# The root stays what its lock says.
mount -o remount,bind,ro "$root"
cd "$root"
pivot_root . .
umount -l .
cd /
exec "$@"
