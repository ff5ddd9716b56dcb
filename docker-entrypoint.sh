#!/bin/sh
# Runs a role of the Procfile by its name (`api`, `relay`, ...), or any other command as it is.
# `exec` all the way: the role itself gets SIGTERM, and finishes what it has in hand.
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
