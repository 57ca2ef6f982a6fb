#!/usr/bin/env bash
# enrollments-get.sh [ENROLLMENT-ID | FILTER=VALUE…] — print one enrollment, or all those that fit the filters.
#
# Filters: in_sync=0, failing=1, state=enrolled or left, set=NAME, type=TYPE, seen_before=TIME, seen_after=TIME,
# serial=NUMBER, model=MODEL, os_family=NAME, os_version_lt=VERSION, os_version_ge=VERSION, supports=NAME, ddm_on=0.
# All pages are fetched, except with limit=N, which prints the first N at most. With after=ENROLLMENT-ID they begin after it.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/enrollments-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

# filters tells whether an argument is one that selects enrollments, and not an id, which can have a = in it.
filters() {
	case $1 in
	in_sync=* | failing=* | state=* | set=* | type=* | seen_before=* | seen_after=*) ;;
	serial=* | model=* | os_family=* | os_version_lt=* | os_version_ge=* | supports=* | ddm_on=*) ;;
	limit=* | after=*) ;;
	*) return 1 ;;
	esac
}

arguments 0 20 "$@"
if [ $# -eq 1 ] && ! filters "$1"; then
	get "enrollments/$(encode "$1")"
	exit
fi

query='limit=1000'
all=1
for filter in "$@"; do
	if ! filters "$filter"; then
		# The server takes no notice of parameters that it does not know: with a misspelt filter all would fit.
		say "$filter is not a filter: see --help. An ENROLLMENT-ID stands alone"
		exit "$misused"
	fi
	value=$(encode "${filter#*=}")
	case $filter in
	limit=*)
		query=${query/limit=1000/limit=$value}
		all=
		;;
	*) query+="&${filter%%=*}=$value" ;;
	esac
done

get_pages enrollments "$query" "$all"
