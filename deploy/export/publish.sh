#!/bin/sh
# Fills a folder with a model repository that fits, or fails: what runs before Triton starts.
#
#   reeltint-publish [--engines | --check-only] FOLDER
#
# FOLDER gets the repository in MODELS (the image's own), unless it holds that already; --engines builds TensorRT engines
# beside the graphs, on this host's GPU. Exit codes of reeltint-export: 0 fit, 1 unfit, 2 wrong use.
set -eu
mode=copy
case ${1-} in --engines) mode=engines; shift ;; --check-only) mode=check; shift ;; esac
[ $# -eq 1 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
to=$1
from=${MODELS:-/opt/reeltint/model_repository}

if [ $mode != check ]; then
  stamp=$(cd "$from" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
  if [ "$(cat "$to/.published" 2>/dev/null)" != "$stamp" ]; then
    echo "reeltint-publish: $from -> $to" >&2
    mkdir -p "$to"
    rm -rf "$to"/* "$to/.published"
    cp -R "$from"/. "$to"
    echo "$stamp" >"$to/.published"
  fi
fi
if [ $mode = engines ]; then
  reeltint-export engines "$to"
fi
exec reeltint-export check "$to"
