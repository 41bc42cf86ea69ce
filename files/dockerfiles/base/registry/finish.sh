#!/bin/sh
# Gives the root file system the interface of the official registry image.
set -eu
root=$1
here=$(dirname "$0")
ln -sf docker-registry "$root/usr/bin/registry"
rm -f "$root/etc/docker/registry/htpasswd"
install -m 0644 "$here/config.yml" "$root/etc/docker/registry/config.yml"
install -d -m 0755 "$root/var/lib/registry"
rm -rf "$root/var/lib/docker-registry"
