#!/usr/bin/env bash
# ddm-tokens.sh ENROLLMENT-ID — print the tokens that a device would get.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/ddm-tokens.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
look "$1" tokens
