# Sourced: place() fills $DEST by the caller's fetch(), once, whoever else tries: the lock is the kernel's, so it goes with
# its process. The mark is made last: a folder without it is not finished.
place() {
    mkdir -p "$DEST"
    exec 9>"$DEST.lock"
    flock 9
    if [ -e "$DEST/.complete" ]; then
        echo "aerie: $DEST is there"
        return
    fi
    echo "aerie: fetching $SOURCE into $DEST"
    fetch
    if [ -n "$SUMS" ]; then
        (cd "$DEST" && echo "$SUMS" | sha256sum -c -)
    fi
    touch "$DEST/.complete"
    echo "aerie: $DEST is whole"
}
