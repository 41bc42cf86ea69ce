#!/bin/sh
# Gives the root file system the interface of the official Python image: python beside python3, no test suite.
set -eu
root=$1
ln -sf python3 "$root/usr/bin/python"
rm -rf "$root"/usr/lib/python3*/test "$root"/usr/lib/python3*/pydoc_data "$root"/usr/lib/python3*/idlelib
# A mark against pip is for hosts that apt looks after. Applications live in virtual environments anyway.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
