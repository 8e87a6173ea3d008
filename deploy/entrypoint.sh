#!/bin/sh
# Runs the command, with the settings that the stack itself has made for it.
#
# One compose file cannot set a variable by profile, so simulated clouds, where they are part of the
# stack, say their addresses in a file. When it changes (they came later, or again with other keys)
# the command is ended, and the engine's restart policy starts it with what is true now.
set -eu

own=${DUMONT_SETTINGS:-}
clouds=/run/clouds/environment

said() { cat "$clouds" 2>/dev/null || true; }

if [ -n "$own" ] && [ -r "$own" ]; then
    set -a && . "$own" && set +a
fi
[ -d "${clouds%/*}" ] || exec "$@"

known=$(said)
set -a && eval "$known" && set +a

"$@" &
service=$!
trap 'kill -TERM "$service" 2>/dev/null || true' TERM INT
(
    while [ "$(said)" = "$known" ]; do sleep 1; done
    printf 'the simulated clouds changed: starting again\n' >&2
    kill -TERM "$service" 2>/dev/null
) &

# A signal that was passed on ends the first wait, not yet the service.
code=0 && wait "$service" || code=$?
while kill -0 "$service" 2>/dev/null; do
    code=0 && wait "$service" || code=$?
done
exit "$code"
