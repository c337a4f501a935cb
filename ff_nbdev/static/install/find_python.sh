#!/bin/sh
# sh install.sh FOLDER [PYTHON]: ff_nbdev @version@ into a new virtual environment in FOLDER, with no network.
set -eu
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
pyversion() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing; }
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -gt 0 ] || die 'give a folder that is not there yet, for example: sh install.sh ~/ff_nbdev'
case $1 in /*) to=$1 ;; *) to=$PWD/$1 ;; esac
case $to in *\'*|*:*|*'
'*) die 'the path of the folder holds a quote, a colon or a line break: give another folder.' ;; esac
[ ! -e "$to" ] || die "$to is there already: give a folder that is not there yet."
python=${2:-}
for p in python@python@ python3 python; do
  [ -n "$python" ] || [ "$(pyversion "$p")" != @python@ ] || python=$p; done
asked=${python:-python3}
[ "$(pyversion "$asked")" = @python@ ] ||
  die "this bundle is for Python @python@, and $asked is $(pyversion "$asked"): \
give the path of a Python @python@ as the second word, or make a bundle with --python."
