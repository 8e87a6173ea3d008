#!/bin/sh
# Makes sure that this machine has the programs that the product and its demo stand on and that
# no Python package brings: Python itself, rsync, the SSH client and server.
#
# What is missing is installed with apt when we may (root on Debian or Ubuntu); otherwise the
# exact command is printed and the exit code is 1. Nothing happens when all is there.
#
# The SSH server's program is needed for simulated machines, each of which runs its own. The
# machine's own SSH service is not wanted: where we install the package it is not started.
set -eu

python=${PYTHON:-python3}
packages=""

need() { # need PACKAGE REASON
    printf 'missing: %s\n' "$2" >&2
    packages="$packages $1"
}

have() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]
}

have rsync || need rsync "rsync"
have ssh && have ssh-keygen || need openssh-client "the SSH client"
have sshd || need openssh-server "the SSH server (for simulated machines)"
have unshare || need util-linux "unshare (for simulated machines)"

if ! have "$python"; then
    need "python3 python3-venv" "Python 3.11 or newer"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    printf 'dumont: %s is %s; 3.11 or newer is needed\n' "$python" "$("$python" -V 2>&1)" >&2
    printf '  type: apt-get install python3.11 python3.11-venv && make setup PYTHON=python3.11\n' >&2
    exit 1
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    need "python3-venv" "the venv module of Python"
fi

[ -n "$packages" ] || exit 0

command="apt-get install --yes --no-install-recommends$packages"
if ! command -v apt-get >/dev/null 2>&1; then
    printf 'dumont: install these with the package manager of this system:%s\n' "$packages" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    printf 'dumont: some programs are missing; type:\n  sudo %s\n' "$command" >&2
    exit 1
fi

# A package may start its service when it is installed; with this file in place it may not.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
printf 'installing:%s\n' "$packages" >&2
apt-get update --quiet=2 || printf 'apt-get update failed; trying with what is known\n' >&2
if ! $command >&2; then
    printf 'dumont: apt-get could not install%s; correct that and type: %s\n' "$packages" "$command" >&2
    exit 1
fi
case $packages in
*openssh-server*)
    # Nor at the next boot: nobody asked for an SSH service on this machine.
    if command -v systemctl >/dev/null 2>&1; then
        systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
    fi
    ;;
esac
