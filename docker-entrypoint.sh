#!/bin/sh
# Run a role of the Procfile by its name (`api`, `relay`, ...), or any other command unchanged.
# It uses `exec`, so that the role itself gets SIGTERM and finishes its current work.
set -eu

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
