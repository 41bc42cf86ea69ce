#!/bin/sh
# Gives the root file system the interface of the official PostgreSQL image.
set -eu
root=$1
here=$(dirname "$0")
version=@VERSION@

# Compiling queries needs 180 MB of LLVM for a gain that small queries never see. Without its library the server goes
# on without it (jit has no effect).
find "$root/usr/lib" \( -name 'libLLVM*' -o -name 'libz3.so*' -o -name 'llvmjit*' \) -delete
rm -rf "$root/usr/lib/postgresql/$version/lib/bitcode"

# Debian's own wrappers, in Perl, which look after several clusters on one host; here the server's own programs are on PATH.
find "$root/usr/bin" -lname '*pg_wrapper' -delete
find "$root/usr/lib" -maxdepth 2 -name perl -type d -exec rm -rf {} +
rm -rf "$root/usr/share/perl" "$root/usr/share/perl5" "$root/usr/share/postgresql-common" "$root/etc/postgresql" "$root/etc/postgresql-common"
rm -f "$root/etc/ssl/private/ssl-cert-snakeoil.key" "$root/etc/ssl/certs/ssl-cert-snakeoil.pem"
find "$root/etc/ssl/certs" -xtype l -delete

sed -i "s/^#\?listen_addresses *=.*/listen_addresses = '*'/" "$root/usr/share/postgresql/$version/postgresql.conf.sample"
install -m 0755 "$here/docker-entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"
install -d -m 0755 "$root/docker-entrypoint-initdb.d"
install -d -m 1777 -o 999 -g 999 "$root/var/lib/postgresql" "$root/var/lib/postgresql/data"
install -d -m 3777 -o 999 -g 999 "$root/run/postgresql"
