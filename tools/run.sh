#!/usr/bin/env bash
# run.sh [FLAGS…] — start bin/decree in the current directory, with an API key that is made once and kept, and show
# commands to try. `make run` builds the server first.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/run.sh
set -euo pipefail

key_file=$PWD/.decree-api-key
if [ ! -s "$key_file" ]; then
	(
		umask 077
		head -c 24 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$key_file"
	)
	echo "Made an API key: $key_file"
fi
chmod 600 "$key_file"

# Where the server will listen, as a URL for this machine.
listen=${DECREE_LISTEN:-:9002}
previous=
for argument in "$@"; do
	case $argument in
	-listen=* | --listen=*) listen=${argument#*=} ;;
	esac
	case $previous in
	-listen | --listen) listen=$argument ;;
	esac
	previous=$argument
done
case $listen in
:* | 0.0.0.0:* | "[::]":*) listen=localhost:${listen##*:} ;;
esac
url=http://$listen

# The password for curl, whatever the name of the directory is. It is the reader's shell that reads the key.
# shellcheck disable=SC2016
printf -v user '"decree:$(cat %q)"' "$key_file"

cat <<TEXT

Decree starts at $url. To try it, in another terminal:

List the declarations:
  curl -u $user $url/v1/declarations

Put a test declaration (204: changed; 304: it was there already):
  curl -u $user -w '%{http_code}\n' -X PUT $url/v1/declarations -d '{"Type":"com.apple.configuration.management.test","Identifier":"com.example.test","Payload":{"Echo":"Hello"}}'

TEXT

# The key goes through the environment: arguments can be seen by every user of the machine.
DECREE_API=$(cat "$key_file")
export DECREE_API
exec bin/decree "$@"
