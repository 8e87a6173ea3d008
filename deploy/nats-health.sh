#!/bin/sh
# Usage: nats-health.sh URL STORE PID SECONDS
#
# Ends with 0 if the nats-server that tells its health at URL is well. One that met a full disk stays
# broken after there is room again, until it is started anew: if it has been unwell for SECONDS and
# the disk of STORE has room (16 MB), end process PID; the container's restart policy does the rest.
set -eu
url=$1 store=$2 pid=$3 seconds=$4
since=/tmp/nats-unwell.$pid

if wget -q -O /dev/null "$url/healthz"; then
    rm -f "$since"
    exit 0
fi
[ -e "$since" ] || touch "$since"
unwell=$(($(date +%s) - $(stat -c %Y "$since")))
free=$(df -Pk "$store" | awk 'NR == 2 { print $4 }')
if [ "$unwell" -ge "$seconds" ] && [ "$free" -ge 16384 ]; then
    rm -f "$since"
    echo "unwell for $unwell s, and the disk has room: ended, to be started again"
    kill -TERM "$pid"
fi
exit 1
