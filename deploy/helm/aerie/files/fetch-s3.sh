#!/bin/sh
# Puts a prefix of an S3 bucket into $DEST: whole and checked, or the pod waits. SOURCE, SUMS, DEST; RCLONE_CONFIG_S3_*.
# rclone writes beside a file's place and renames it, skips what is there, and checks what it has copied.
set -eu
# shellcheck source=/dev/null
. /scripts/place.sh

fetch() {
    rclone copy --checksum --transfers 4 "s3:${SOURCE#s3://}" "$DEST" &&
        rclone check --one-way "s3:${SOURCE#s3://}" "$DEST"
}

place
