#!/usr/bin/env python3
"""Prints a declaration, to be kept in a file or uploaded:

  ideclr.py -i com.example.test test Hello | api-declaration-put.sh -
"""

import argparse
import json
import math
import sys
import uuid

sys.dont_write_bytecode = True  # the directory of the tools may be one where nothing should be written

import client

# The longest identifier that Apple allows, in octets. Apple: declarations/declarationbase.yaml.
LONGEST_IDENTIFIER = 64


def test(arguments):
    payload = {"Echo": arguments.echo}
    if arguments.returnstatus:
        payload["ReturnStatus"] = arguments.returnstatus
    return payload


def activation(arguments):
    payload = {"StandardConfigurations": arguments.configuration}
    if arguments.predicate:
        payload["Predicate"] = arguments.predicate
    return payload


def organization(arguments):
    payload = {"Name": arguments.name}
    if arguments.email:
        payload["Email"] = arguments.email
    if arguments.url:
        payload["URL"] = arguments.url
    if arguments.identitytoken:
        payload["Proof"] = {"IdentityToken": arguments.identitytoken}
    return payload


def properties(arguments):
    payload = {}
    for pair in arguments.property:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            arguments.parser.error(f"{pair} is not KEY=VALUE")
        if key in payload:
            arguments.parser.error(f"{key} is given twice")
        try:
            payload[key] = json.loads(value, parse_constant=no_number, parse_float=finite)
        except (ValueError, RecursionError):
            payload[key] = value
    return payload


def no_number(text):
    """Refuses NaN and Infinity, which Python takes for JSON."""
    raise ValueError(f"{text} is not JSON")


def finite(text):
    """Returns a number, unless it is too large for one."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def subscription(arguments):
    return {"StatusItems": [{"Name": item} for item in arguments.item]}


def profile(arguments):
    return {"ProfileURL": https(arguments.url)}


def interactive_profile(arguments):
    return {"ProfileURL": https(arguments.url), "VisibleName": arguments.visiblename}


def watch_enrollment(arguments):
    return {"EnrollmentProfileURL": https(arguments.url)}


def https(url):
    """Warns of a URL that devices do not take."""
    if not url.lower().startswith("https://"):
        client.say("warning: devices take only a URL that begins with https://")
    return url


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 done, 2 wrong use. COMMAND --help tells more of a command.",
    )
    parser.add_argument("-i", "--identifier", help="the declaration's Identifier; a new UUID if not given")
    parser.add_argument("-t", "--token", help="a ServerToken; Decree ignores it and makes its own")
    commands = parser.add_subparsers(title="declarations", metavar="COMMAND", dest="command", required=True)

    def command(name, declaration_type, payload):
        added = commands.add_parser(name, help=declaration_type, description=declaration_type)
        added.set_defaults(type=declaration_type, payload=payload, parser=added)
        return added

    added = command("test", "com.apple.configuration.management.test", test)
    added.add_argument("echo", metavar="ECHO", help="the text to echo")
    added.add_argument("-r", "--returnstatus", help="what the device is to report: Installed, Failed or Unlocked")

    added = command("activation", "com.apple.activation.simple", activation)
    added.add_argument("-p", "--predicate", help="what must hold for the configurations to apply")
    added.add_argument("configuration", metavar="ID", nargs="+", help="the identifier of a configuration")

    added = command("org-info", "com.apple.management.organization-info", organization)
    added.add_argument("name", metavar="NAME", help="the name of the organization")
    added.add_argument("-e", "--email", help="its e-mail address")
    added.add_argument("-u", "--url", help="its website")
    added.add_argument("-t", "--identitytoken", help="a token that proves its identity")

    added = command("properties", "com.apple.management.properties", properties)
    added.add_argument(
        "property", metavar="KEY=VALUE", nargs="*",
        help='a property for predicates, @property(KEY); VALUE is JSON, or else a string',
    )

    added = command("subscription", "com.apple.configuration.management.status-subscriptions", subscription)
    added.add_argument("item", metavar="ITEM", nargs="+", help="a status item, such as device.operating-system.version")

    added = command("profile", "com.apple.configuration.legacy", profile)
    added.add_argument("url", metavar="URL", help="where the device downloads the profile")

    added = command("iprofile", "com.apple.configuration.legacy.interactive", interactive_profile)
    added.add_argument("url", metavar="URL", help="where the device downloads the profile")
    added.add_argument("visiblename", metavar="VISIBLENAME", help="the name that the user sees")

    added = command("watch-enrollment", "com.apple.configuration.watch.enrollment", watch_enrollment)
    added.add_argument("url", metavar="URL", help="where the watch downloads its enrollment profile")

    arguments = parser.parse_args()
    identifier = str(uuid.uuid4()) if arguments.identifier is None else arguments.identifier
    if not identifier:
        parser.error("the identifier is empty")
    if len(identifier.encode("utf-8", "surrogateescape")) > LONGEST_IDENTIFIER:
        client.say(f"warning: Apple allows identifiers of at most {LONGEST_IDENTIFIER} octets")
    declaration = {"Identifier": identifier, "Type": arguments.type, "Payload": arguments.payload(arguments)}
    if arguments.token:
        declaration["ServerToken"] = arguments.token
    client.print_json(declaration)


if __name__ == "__main__":
    main()
