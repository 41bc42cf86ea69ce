#!/bin/sh
# First step for every base image after its packages are installed, with the new root as its argument: takes out what a
# container never needs and what would differ between two builds from the same archive.
set -eu
root=$1

# Sources, keys and apt settings are those of the building host and may name a proxy or hold a password.
rm -rf "$root/etc/apt" "$root/var/lib/apt" "$root/var/cache/apt" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"

# The package database (/var/lib/dpkg/status) stays, so that scanners see what is installed.
find "$root/var/lib/dpkg" -maxdepth 1 -name '*-old' -delete
rm -rf "$root/var/cache/debconf" "$root/var/cache/ldconfig" "$root/var/lib/systemd"
find "$root/var/log" "$root/tmp" "$root/run" -mindepth 1 -delete
rm -f "$root/etc/machine-id" "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id"
rm -f "$root/etc/passwd-" "$root/etc/group-" "$root/etc/shadow-" "$root/etc/gshadow-" "$root/etc/.pwd.lock"

# The day on which an account was made; empty means that passwords do not age. No account has a password.
if [ -e "$root/etc/shadow" ]; then
    awk -F: -v OFS=: '{ $3 = ""; print }' "$root/etc/shadow" > "$root/etc/shadow.new"
    cat "$root/etc/shadow.new" > "$root/etc/shadow"
    rm "$root/etc/shadow.new"
fi

# Character set converters for other encodings than UTF-8 and ASCII, which glibc has built in.
find "$root/usr/lib" -path '*/gconv/*' -delete

# Nothing in a container may gain rights through a program's mode.
find "$root" -xdev -type f -perm /6000 -exec chmod a-s {} +
