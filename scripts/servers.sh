#!/usr/bin/env bash
# Installs the real servers that tests run against; what is there already is left. Versions are pinned here and nowhere else.
#
#   scripts/servers.sh [redis] [celery] [llamaindex]     all of them without a name
set -euo pipefail
cd "$(dirname "$0")/.."
CELERY=5.7.0
FLOWER=2.2.0
LLAMAINDEX=0.14.25

# a package of Debian or Ubuntu
package() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
    if ! command -v apt-get >/dev/null || ! command -v "${as_root[0]:-sh}" >/dev/null; then
        echo "install $1 and come back: this script can do it with apt-get as root or through sudo" >&2
        exit 1
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" >/dev/null
}

redis() {
    command -v redis-server >/dev/null || package redis-server
    # makes the certificates of tests
    command -v openssl >/dev/null || package openssl
    local version
    version=$(redis-server --version | grep -o 'v=[0-9.]*')
    if [ "$(printf '%s\n' 6.2 "${version#v=}" | sort -V | head -1)" != 6.2 ]; then
        echo "redis-server ${version#v=} is too old: 6.2 or later is needed" >&2
        exit 1
    fi
    echo "redis ${version#v=}"
}

# an environment of Python of its own, made again where `check` says that it is not what it has to be: NAME CHECK PACKAGE...
environment() {
    local dir=target/servers/$1 check=$2
    shift 2
    if "$dir/bin/python" -c "import importlib.metadata as m; assert $check" 2>/dev/null; then return; fi
    # Debian keeps half of venv in a package of its own
    python3 -c "import ensurepip" 2>/dev/null || package python3-venv
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check "$@"
}

celery() {
    environment celery "(m.version('celery'), m.version('flower')) == ('$CELERY', '$FLOWER')" "celery[redis]==$CELERY" "flower==$FLOWER"
    echo "celery $CELERY, flower $FLOWER"
}

# a Celery worker with tools of LlamaIndex
llamaindex() {
    environment llamaindex "(m.version('celery'), m.version('llama-index-core')) == ('$CELERY', '$LLAMAINDEX')" \
        "celery[redis]==$CELERY" "llama-index-core==$LLAMAINDEX"
    echo "llama-index-core $LLAMAINDEX, celery $CELERY"
}

if [ $# -eq 0 ]; then set -- redis celery llamaindex; fi
for server in "$@"; do
    case $server in
        redis | celery | llamaindex) "$server" ;;
        *) echo "no such server: $server" >&2; exit 2 ;;
    esac
done
