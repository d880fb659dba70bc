# Sourced: place() fills $DEST by the caller's fetch(), once, whoever else tries: the lock is the kernel's, so it goes with
# its process. The mark is made last: a folder without it is not finished. A fetch that fails is tried again here, since a
# container that restarts ends a LeaderWorkerSet's whole group. fetch() stops at what fails by itself: -e does not hold in it.
place() {
    mkdir -p "$DEST"
    exec 9>"$DEST.lock"
    flock 9
    if [ -e "$DEST/.complete" ]; then
        echo "aerie: $DEST is there"
        return
    fi
    echo "aerie: fetching $SOURCE into $DEST"
    for wait in 10 30 60 0; do
        fetch && break
        [ "$wait" != 0 ] || return 1
        echo "aerie: $SOURCE was not fetched; again in $wait s" >&2
        sleep "$wait"
    done
    if [ -n "$SUMS" ]; then
        (cd "$DEST" && echo "$SUMS" | sha256sum -c -)
    fi
    touch "$DEST/.complete"
    echo "aerie: $DEST is whole"
}
