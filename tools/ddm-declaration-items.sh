#!/usr/bin/env bash
# ddm-declaration-items.sh ENROLLMENT-ID — print the declaration items that a device would get.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/ddm-declaration-items.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
look "$1" declaration-items
