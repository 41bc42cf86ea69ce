#!/bin/sh
# Before the packages are installed: the account with the number that the official image gives it, so that a volume fits
# both, and no cluster of Debian's own.
set -eu
root=$1
echo 'postgres:x:999:' >> "$root/etc/group"
echo 'postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/bash' >> "$root/etc/passwd"
echo 'postgres:!::0:99999:7:::' >> "$root/etc/shadow"
mkdir -p "$root/etc/postgresql-common"
echo 'create_main_cluster = false' > "$root/etc/postgresql-common/createcluster.conf"
