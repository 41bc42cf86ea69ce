#!/bin/sh
# Gives an application that reads environment variables its secrets without putting them into the container's
# definition: every file in /run/secrets/truthgraph becomes a variable of its name. Then the command takes the place
# of this script.
set -eu
for file in /run/secrets/truthgraph/*; do
  [ -f "$file" ] || continue
  name=${file##*/}
  case $name in
    [!A-Za-z_]* | *[!A-Za-z0-9_]*) continue ;;
  esac
  # An unreadable secret ends the script here, with the reason, instead of starting the application without it.
  value=$(cat "$file")
  export "$name=$value"
done
exec "$@"
