#!/usr/bin/env bash
# require.sh PROGRAM… — make sure that programs are there, or say what is missing and fail.
#
# root on a machine with apt-get gets the Debian packages of what is missing. "cc" stands for the C compiler that Go uses,
# with the headers of the C library: the race detector needs it.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/require.sh
set -euo pipefail

present() {
	case $1 in
	cc)
		local compiler
		read -ra compiler <<<"$(go env CC)"
		command -v "${compiler[0]}" >/dev/null &&
			echo '#include <stdlib.h>' | "${compiler[@]}" -E - >/dev/null 2>&1
		;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=()
packages=()
for program in "$@"; do
	if ! present "$program"; then
		missing+=("$program")
		case $program in
		cc) packages+=(gcc libc6-dev) ;;
		*) packages+=("$program") ;;
		esac
	fi
done
if [ ${#missing[@]} -eq 0 ]; then
	exit
fi

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
	echo "require.sh: installing ${packages[*]}" >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get --quiet=2 -o DPkg::Lock::Timeout=600 update >&2
	apt-get --quiet=2 -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 \
		install --yes --no-install-recommends "${packages[@]}" >&2
fi

hash -r
for program in "${missing[@]}"; do
	if ! present "$program"; then
		case $program in
		cc) what="a C compiler ($(go env CC)) with its headers, which Go's race detector needs" ;;
		*) what=$program ;;
		esac
		echo "require.sh: missing: $what (Debian: apt-get install ${packages[*]})" >&2
		exit 1
	fi
done
