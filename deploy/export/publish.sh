#!/bin/sh
# Fills a folder with a model repository that fits, or fails: what runs before Triton starts.
#
#   reeltint-publish [--engines | --check-only] FOLDER
#
# FOLDER gets the repository in MODELS (the image's own), unless it holds that already and it fits; --engines builds
# TensorRT engines beside the graphs, on this host's GPU, with the options in ENGINE_OPTIONS. All is made and checked in
# FOLDER.next, on the same volume, and renamed: whatever fails, FOLDER stays. MODEL_CONFIG_NAME is what Triton's
# --model-config-name will be (tensorrt with --engines). Exit codes of reeltint-export: 0 fit, 1 unfit, 2 wrong use.
set -eu
mode=copy
case ${1-} in --engines) mode=engines; shift ;; --check-only) mode=check; shift ;; esac
[ $# -eq 1 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
to=${1%/}
from=${MODELS:-/opt/reeltint/model_repository}
[ $mode != engines ] || MODEL_CONFIG_NAME=tensorrt
check() { reeltint-export check "$1" ${MODEL_CONFIG_NAME:+--config-name "$MODEL_CONFIG_NAME"}; }

if [ $mode = check ]; then
  check "$to"
  exit
fi
[ -e "$to" ] || [ ! -e "$to.old" ] || mv "$to.old" "$to" # a run that was killed between two renames
stamp="$mode ${ENGINE_OPTIONS-} $(cd "$from" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)"
if [ "$(cat "$to/.published" 2>/dev/null)" = "$stamp" ] && check "$to"; then
  exit
fi
echo "reeltint-publish: $from -> $to" >&2
rm -rf "$to.next" "$to.old"
mkdir -p "$to.next"
cp -R "$from"/. "$to.next"
if [ $mode = engines ]; then
  # shellcheck disable=SC2086 # options, split at blanks
  reeltint-export engines "$to.next" ${ENGINE_OPTIONS-}
fi
check "$to.next"
echo "$stamp" >"$to.next/.published"
[ ! -e "$to" ] || mv "$to" "$to.old"
mv "$to.next" "$to"
rm -rf "$to.old"
