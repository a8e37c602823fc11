#!/usr/bin/env bash
# Installs the real servers that tests run against; what is there already is left. Versions are pinned here and nowhere else.
#
#   scripts/servers.sh [redis] [celery]     all of them without a name
set -euo pipefail
cd "$(dirname "$0")/.."
CELERY=5.7.0
FLOWER=2.2.0

root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "installing $* needs root: install the package redis-server (6.2 or later) and come back" >&2; exit 1
    fi
}

redis() {
    if ! command -v redis-server >/dev/null; then
        root apt-get update -qq
        root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server >/dev/null
    fi
    redis-server --version
}

celery() {
    local dir=target/servers/celery
    if ! "$dir/bin/python" -c "import celery, flower; assert celery.__version__ == '$CELERY'" 2>/dev/null; then
        rm -rf "$dir"
        python3 -m venv "$dir"
        "$dir/bin/pip" install --quiet --disable-pip-version-check "celery[redis]==$CELERY" "flower==$FLOWER"
    fi
    "$dir/bin/celery" --version
}

if [ $# -eq 0 ]; then set -- redis celery; fi
for server in "$@"; do
    case $server in
        redis | celery) "$server" ;;
        *) echo "no such server: $server" >&2; exit 2 ;;
    esac
done
