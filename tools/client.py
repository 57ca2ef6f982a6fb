"""What the Python tools that talk to a Decree server have in common. It is imported by them, and is no tool itself."""

import base64
import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

# Exit codes, the same as those of the shell scripts.
REFUSED = 1
MISUSED = 2
UNREACHABLE = 3

EXIT_CODES = "Exit codes: 0 done (or nothing to do), 1 the server refused, 2 wrong use, 3 no answer from the server."

ENVIRONMENT = """Environment:
  BASE_URL      where the server is (http://localhost:9002)
  API_BASE_URL  where its API is (BASE_URL/v1)
  API_KEY       the API key that the server was given with -api
  API_USER      the user name to send with it (decree); Decree takes any
"""

# Names have any letters, and a terminal or a log may not: that must not end a tool between two changes.
if sys.stdout is not None:
    sys.stdout.reconfigure(errors="backslashreplace")

TIMEOUT_SECONDS = 60
# What is not Decree, such as a proxy, can answer with a whole web page.
LONGEST_MESSAGE = 1000


class Refused(Exception):
    """The server said no."""


class Denied(Refused):
    """The server does not take the API key, so that it says no to everything."""


class Unreachable(Exception):
    """The server gave no answer."""


def add_arguments(parser):
    """Adds the arguments that say where the server is."""
    parser.add_argument("--baseurl", metavar="URL", help="where the server is, instead of BASE_URL")
    parser.add_argument("--apibaseurl", metavar="URL", help="where its API is, instead of API_BASE_URL")
    parser.add_argument("--user", metavar="NAME", help="the user name, instead of API_USER")
    parser.add_argument(
        "--key", metavar="KEY", help="the API key, instead of API_KEY (other users of this machine can see arguments)"
    )


def connect(parser, arguments):
    """Returns a client for what the arguments and the environment say. What is given as an argument wins."""
    environment = os.environ.get
    base_url = arguments.baseurl or environment("BASE_URL") or "http://localhost:9002"
    api_url = arguments.apibaseurl
    if not api_url and not arguments.baseurl:
        api_url = environment("API_BASE_URL")
    key = arguments.key or environment("API_KEY")
    if not key:
        parser.error(
                "API_KEY is not set: it is the key that the server was given with -api; "
                "make run keeps its own in .decree-api-key"
            )
    user = arguments.user or environment("API_USER") or "decree"
    return Client(api_url or base_url.rstrip("/") + "/v1", user, key)


def encode(name):
    """Returns a name as one segment of a path."""
    return urllib.parse.quote(name, safe="")


def message(body):
    """Returns what the server says in the body of a refusal."""
    try:
        said = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = body.decode("utf-8", "replace").strip()
    return said[:LONGEST_MESSAGE]


class Client:
    def __init__(self, api_url, user, key):
        self.api_url = api_url.rstrip("/")
        credentials = base64.b64encode(f"{user}:{key}".encode("utf-8", "surrogateescape")).decode()
        self.headers = {"Authorization": "Basic " + credentials}

    def change(self, method, path, query=(), body=None, content_type=None):
        """Has the server change something, and returns whether that was a change."""
        url = f"{self.api_url}/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        headers = dict(self.headers)
        if content_type:
            headers["Content-Type"] = content_type
        try:
            request = urllib.request.Request(url, data=body, headers=headers, method=method)
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                answer.read()
                return True
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.client.NOT_MODIFIED:
                    return False
                kind = Denied if error.code in (401, 403) else Refused
                raise kind(f"HTTP {error.code}: {message(error.read())}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{method} {url}: no answer: {getattr(error, 'reason', error)}") from None

    def put_declaration(self, text, query=()):
        """Uploads a declaration."""
        return self.change("PUT", "declarations", query, text, "application/json")

    def change_set(self, method, name, identifier, query=()):
        """Adds a declaration to a set, or takes it out."""
        return self.change(method, "set-declarations/" + encode(name), [("declaration", identifier), *query])


def print_json(value):
    """Prints JSON, in UTF-8 whatever the locale."""
    try:
        text = json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        sys.exit(fail("the arguments cannot be written as JSON in UTF-8", MISUSED))
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


def say(text):
    """Writes a message of the tool."""
    print(f"{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)


def fail(text, code):
    """Says what is wrong, and returns the exit code."""
    say(text)
    return code
