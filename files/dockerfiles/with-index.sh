#!/bin/sh
# Runs a command of the build with the control node's package index settings and CA bundle, if it has any. Both are
# mounted as secrets for this one step; nothing is printed and nothing is written.
set -eu
if [ -s /run/secrets/index ]; then
  set -a
  . /run/secrets/index
  set +a
fi
if [ -s /run/secrets/ca ]; then
  export SSL_CERT_FILE=/run/secrets/ca
fi
exec "$@"
