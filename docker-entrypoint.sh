#!/bin/sh
# Run a role of the Procfile by its name (`api`, `relay`, ...), or any other command unchanged.
# It uses `exec`, so that the role itself gets SIGTERM and finishes its current work.
set -eu

# Containers may share the folder for metrics, but not process ids: each gets a folder in it. A restarted container
# continues its counters there, because /metrics adds up all containers, and the sum of counters must not fall.
if [ -n "${PROMETHEUS_MULTIPROC_DIR:-}" ]; then
    export METRICS_DIR="$PROMETHEUS_MULTIPROC_DIR" PROMETHEUS_MULTIPROC_DIR="$PROMETHEUS_MULTIPROC_DIR/$(hostname)"
    mkdir -p "$PROMETHEUS_MULTIPROC_DIR"
fi

command=
while IFS= read -r line; do
    case $line in
    "$1: "*) command=${line#*: } ;;
    esac
done <Procfile

if [ -n "$command" ]; then
    exec /bin/sh -c "exec $command"
fi
exec "$@"
