#!/bin/sh
# Lays the compiled extension over the new root.
set -eu
cp -R "$(dirname "$0")/out/." "$1/"
