# Runs one program in a root file system, in a private mount namespace. Arguments: ROOT (/ for none),
# HOSTNAME (empty to keep it), N, then N pairs SOURCE TARGET to bind, then the program and its arguments. Every step
# ends in exec, so the process id that the caller knows is the program's own.
set -eu
umask 022
root=$1 hostname=$2 n=$3
shift 3
[ -z "$hostname" ] || echo "$hostname" >/proc/sys/kernel/hostname
cwd=$PWD
bind() {
    # A file needs a file to be mounted on, a folder a folder.
    if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "${2%/*}" && [ -e "$2" ] || : >"$2"; fi
    mount --rbind "$1" "$2"
}
if [ "$root" = / ]; then
    base=
else
    base=$root
    # The root must be a mount point of its own: mkosi pivots on it.
    mount --bind "$root" "$root"
    for dir in proc sys dev; do mount --rbind "/$dir" "$root/$dir"; done
    # Nothing that a program leaves in these outlives it.
    for dir in run root var/cache; do mount -t tmpfs -o mode=755 tmpfs "$root/$dir"; done
fi
while [ "$n" -gt 0 ]; do
    bind "$1" "$base$2"
    shift 2
    n=$((n - 1))
done
if [ "$root" = / ]; then exec "$@"; fi
# The root stays what its lock says.
mount -o remount,bind,ro "$root"
cd "$root"
[ -d "$base$cwd" ] || cwd=/
exec chroot "$root" /usr/bin/env -C "$cwd" "$@"
