#!/bin/sh
# Puts a repository of the hub into $DEST: whole and checked, or the pod waits. SOURCE, REVISION, EXCLUDE, SUMS, DEST.
# `hf download` goes on where it was cut off; `hf cache verify` holds what it got against the hub's checksums.
set -euf
# shellcheck source=/dev/null
. /scripts/place.sh

fetch() {
    set -- "$SOURCE" --local-dir "$DEST"
    [ -z "$REVISION" ] || set -- "$@" --revision "$REVISION"
    excludes=
    for pattern in $EXCLUDE; do excludes="$excludes --exclude $pattern"; done
    # shellcheck disable=SC2086  # patterns hold no spaces, and -f keeps them patterns
    hf download "$@" $excludes || return
    hf cache verify "$@" && return
    # what is damaged counts as downloaded: once more, all of it
    # shellcheck disable=SC2086
    hf download "$@" $excludes --force-download && hf cache verify "$@"
}

place
