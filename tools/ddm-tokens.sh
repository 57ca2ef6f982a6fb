#!/usr/bin/env bash
# ddm-tokens.sh ENROLLMENT-ID — print the tokens that a device would get.
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
look "$1" tokens
