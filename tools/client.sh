#!/usr/bin/env bash
# client.sh — what the scripts that talk to a Decree server have in common. They source it; it does nothing by itself.
#
# It keeps to bash 3.2, which is what a Mac has.

# A bash that was started as sh would not read what is below.
set +o posix

# Exit codes.
refused=1     # the server said no
misused=2     # the tool was called wrongly
unreachable=3 # the server gave no whole answer

# BASE_URL is the server, API_BASE_URL its API. Either can be found from the other.
base_url=${BASE_URL:-${API_BASE_URL:-http://localhost:9002}}
base_url=${base_url%/}
if [ -z "${BASE_URL:-}" ]; then
	base_url=${base_url%/v1}
fi
api_url=${API_BASE_URL:-$base_url/v1}
api_url=${api_url%/}

# say writes a message of the tool.
say() {
	echo "${0##*/}: $1" >&2
}

# help prints the comment at the top of the script, and what all scripts share.
help() {
	description
	cat <<'TEXT'

Environment:
  BASE_URL      where the server is (http://localhost:9002)
  API_BASE_URL  where its API is (BASE_URL/v1)
  API_KEY       the API key that the server was given with -api
  API_USER      the user name to send with it (decree); Decree takes any
  CURL_OPTS     more options for curl, separated by white space
TEXT
	if [[ ${0##*/} == ddm-* ]]; then
		cat <<'TEXT'
  DECREE_DM_VERIFY_HMAC_KEY
                the key to sign the request with, if the server has -dm-verify-hmac-key

These endpoints need no API key; it is sent if there is one.
TEXT
	fi
	cat <<'TEXT'

Exit codes: 0 done (or nothing to do), 1 the server refused, 2 wrong use, 3 no answer from the server.
TEXT
}

description() {
	sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# arguments LOWEST HIGHEST ARGUMENT… checks the arguments of the script, and answers --help.
arguments() {
	local lowest=$1 highest=$2 number=0 argument
	shift 2
	case ${1:-} in
	-h | --help)
		help
		exit
		;;
	esac
	if [ $# -lt "$lowest" ] || [ $# -gt "$highest" ]; then
		say "wrong number of arguments: $#"
		echo "Usage: $(description | head -n 1)" >&2
		exit "$misused"
	fi
	for argument in "$@"; do
		number=$((number + 1))
		if [ -z "$argument" ] && [ $number -le "$lowest" ]; then
			say "argument $number is empty"
			exit "$misused"
		fi
		# A line break in a header would begin another header.
		if [[ $argument == *[[:cntrl:]]* ]]; then
			say "argument $number has a control character"
			exit "$misused"
		fi
	done
}

# encode prints a name as one segment of a path, or one value of a query.
encode() {
	local LC_ALL=C # bytes, not characters
	local text=$1 encoded='' character code i
	for ((i = 0; i < ${#text}; i++)); do
		character=${text:i:1}
		case $character in
		[a-zA-Z0-9._~-]) encoded+=$character ;;
		*)
			printf -v code '%d' "'$character"
			printf -v code '%%%02X' "$((code & 255))"
			encoded+=$code
			;;
		esac
	done
	printf '%s\n' "$encoded"
}

# secrets prints a configuration for curl. All users of a machine can see the arguments of its processes, so that the
# key must not be one.
secrets() {
	if [ -n "${API_KEY:-}" ]; then
		printf '%s' "${API_USER:-decree}:$API_KEY" | LC_ALL=C sed 's/[\\"]/\\&/g; s/^/user = "/; s/$/"/'
		echo
	fi
	if [ -n "${signature:-}" ]; then
		echo "header = \"X-Hmac-Signature: $signature\""
	fi
}

# request METHOD URL OPTION… leaves the code of the answer in $code, and its body in the file $answer.
request() {
	local method=$1 url=$2 options=() status=0
	shift 2
	read -r -d '' -a options <<<"${CURL_OPTS:-}" || true # it reads to the end
	if [ -z "${answer:-}" ]; then
		answer=$(mktemp)
		trap 'rm -f "$answer"' EXIT
	fi
	code=$(curl --silent --show-error --globoff --path-as-is ${options[@]+"${options[@]}"} --config <(secrets) \
		--request "$method" --output "$answer" --write-out '%{http_code}' "$@" "$url") || status=$?
	case $code in
	2?? | 304)
		if [ $status -ne 0 ]; then
			say "$method $url: the answer is not complete"
			exit "$unreachable"
		fi
		;;
	'' | 000)
		say "$method $url: no answer: is the server up, and BASE_URL right?"
		exit "$unreachable"
		;;
	esac
}

# accepted ends the script, with what the server said, unless it did what it was asked for.
accepted() {
	case $code in
	2?? | 304) return ;;
	esac
	say "the server answered $code"
	print_answer >&2
	exit "$refused"
}

# print_answer prints the body of the answer, with a line break at its end if it has none.
print_answer() {
	cat "$answer"
	if [ -n "$(tail -c 1 "$answer")" ]; then
		echo
	fi
}

need_key() {
	if [ -z "${API_KEY:-}" ]; then
		say "API_KEY is not set: it is the key that the server was given with -api; make run keeps its own in .decree-api-key"
		exit "$misused"
	fi
}

# get PATH prints what the API answers.
get() {
	need_key
	request GET "$api_url/$1"
	accepted
	print_answer
}

# get_pages PATH QUERY ALL prints a list of the API as one. Without ALL it is the first page only.
get_pages() {
	local path=$1 query=$2 all=$3 headers before='[' page
	need_key
	headers=$(mktemp)
	answer=$(mktemp)
	# shellcheck disable=SC2064 # the names are those of now
	trap "rm -f '$headers' '$answer'" EXIT
	while [ -n "$query" ]; do
		request GET "$api_url/$path?$query" --dump-header "$headers"
		accepted
		# A page is a list in one line: without its brackets it is a part of a longer one.
		page=$(<"$answer")
		page=${page#[}
		page=${page%]}
		if [ -n "$page" ]; then
			printf '%s%s' "$before" "$page"
			before=$',\n'
		fi
		# The link is that of the server, which a proxy may have at another path: what counts is its query.
		query=
		if [ -n "$all" ]; then
			query=$(sed -n 's/^[Ll]ink: *<[^>?]*?\([^>]*\)>; *rel="next".*/\1/p' "$headers")
		fi
	done
	if [ "$before" = '[' ]; then
		printf '['
	fi
	echo ']'
}

# change METHOD PATH OPTION… has the API change something, and prints the code of its answer.
change() {
	local method=$1 path=$2
	shift 2
	need_key
	request "$method" "$api_url/$path" "$@"
	case $code in
	2??) print_answer ;;
	esac
	echo "Response HTTP Code: $code"
	accepted
}

# look ENROLLMENT-ID PATH prints what the device of an enrollment would get.
look() {
	signature=
	if [ -n "${DECREE_DM_VERIFY_HMAC_KEY:-}" ]; then
		export DECREE_DM_VERIFY_HMAC_KEY
		# The signature is that of the body, and there is none. openssl would have the key among its arguments.
		if ! signature=$(python3 -c 'import base64, hmac, os
key = os.environb[b"DECREE_DM_VERIFY_HMAC_KEY"]
print(base64.b64encode(hmac.new(key, b"", "sha256").digest()).decode())'); then
			say "python3 is needed to sign with DECREE_DM_VERIFY_HMAC_KEY"
			exit "$misused"
		fi
	fi
	# With the second header, the server does not take this for the device.
	request GET "$base_url/$2" --header "X-Enrollment-ID: $1" --header 'X-Decree-Observe: 1'
	accepted
	print_answer
}
