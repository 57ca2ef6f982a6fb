#!/usr/bin/env python3
"""Has devices install a version of their operating system by a deadline: prints the declaration that enforces it, and
its activation. With --upload they are uploaded, with --set they also become part of a set and devices are told.

  software-update.py 26.1 2027-01-15T18:00:00
  software-update.py --set macs 26.1 2027-01-15T18:00:00

The deadline is in each device's own time. For the next version, give the same --identifier: it then takes the place of
this one.
"""

import argparse
import datetime
import json
import re
import sys

sys.dont_write_bytecode = True  # the directory of the tools may be one where nothing should be written

import client


def version(text):
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){1,3}", text):
        raise argparse.ArgumentTypeError(f"{text} is not a version such as 26.1 or 18.7.2")
    return text


def build(text):
    if not re.fullmatch(r"[0-9]+[A-Z][0-9]+[a-z]?", text):
        raise argparse.ArgumentTypeError(f"{text} is not a build such as 25B78")
    return text


def deadline(text):
    # Apple: declarations/configurations/softwareupdate.enforcement.specific.yaml. Devices take no time zone and no
    # fraction of a second.
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is not a time such as 2027-01-15T18:00:00, without a time zone: it is the device's own time"
        ) from None


def earliest():
    """Returns the earliest deadline that is not in the past for the person who runs this. Without that, a deadline that has
    just passed where the devices are would be taken: a device's time can be up to 12 hours behind UTC."""
    behind = datetime.timezone(datetime.timedelta(hours=-12))
    return max(datetime.datetime.now(), datetime.datetime.now(behind).replace(tzinfo=None))


def web_page(text):
    if not re.match(r"https?://[^/]", text):
        raise argparse.ArgumentTypeError(f"{text} is not the URL of a web page")
    return text


def declarations(arguments):
    """Returns the configuration and its activation."""
    identifier = arguments.identifier
    if not identifier:
        identifier = ".".join(filter(None, ("software-update", arguments.version, arguments.build)))
    payload = {
        "TargetOSVersion": arguments.version,
        "TargetLocalDateTime": arguments.deadline.isoformat(),
    }
    if arguments.build:
        payload["TargetBuildVersion"] = arguments.build
    if arguments.details:
        payload["DetailsURL"] = arguments.details
    activation = {"StandardConfigurations": [identifier]}
    if arguments.predicate:
        activation["Predicate"] = arguments.predicate
    return [
        {
            "Identifier": identifier,
            "Type": "com.apple.configuration.softwareupdate.enforcement.specific",
            "Payload": payload,
        },
        {
            "Identifier": identifier + ".activation",
            "Type": "com.apple.activation.simple",
            "Payload": activation,
        },
    ]


def upload(server, made, name):
    """Uploads declarations, and makes them members of a set if it is named. The server waits a moment for further changes
    before it tells devices, so that they are told once."""
    changed = False
    for declaration in made:
        if server.put_declaration(json.dumps(declaration).encode()):
            print(f"declaration {declaration['Identifier']}: changed")
            changed = True
    for declaration in made if name else []:
        if server.change_set("PUT", name, declaration["Identifier"]):
            print(f"set {name}: added {declaration['Identifier']}")
            changed = True
    if not changed:
        print("nothing changed")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=client.ENVIRONMENT + "\n" + client.EXIT_CODES,
    )
    parser.add_argument("version", metavar="VERSION", type=version, help="the version, such as 26.1")
    parser.add_argument(
        "deadline", metavar="DEADLINE", type=deadline, help="until when the user can choose the time: YYYY-MM-DDTHH:MM:SS"
    )
    parser.add_argument("-b", "--build", type=build, help="the build of the version, such as 25B78")
    parser.add_argument("-d", "--details", metavar="URL", type=web_page, help="a web page for users that tells more of it")
    parser.add_argument(
        "-i", "--identifier", help="of the configuration (software-update.VERSION); .activation is added for the activation"
    )
    parser.add_argument("-p", "--predicate", help="what must hold for the activation to apply")
    parser.add_argument(
        "--past", action="store_true", help="take a deadline that has passed by the clock of this machine, which makes devices of its time zone "
        "install and restart at once"
    )
    parser.add_argument("--upload", action="store_true", help="upload the declarations instead of printing them")
    parser.add_argument("--set", metavar="NAME", help="upload them, and add them to this set")
    client.add_arguments(parser)
    arguments = parser.parse_args()
    if not arguments.past and arguments.deadline < earliest():
        parser.error(
            f"the deadline is in the past: it is {datetime.datetime.now():%Y-%m-%dT%H:%M:%S} here. Devices whose clocks show "
            "a later time than the deadline would restart at once. Give --past if that is meant"
        )
    if arguments.set == "":
        parser.error("the name of the set is empty")
    made = declarations(arguments)
    if not arguments.upload and arguments.set is None:
        for declaration in made:
            client.print_json(declaration)
        return 0
    server = client.connect(parser, arguments)
    try:
        upload(server, made, arguments.set)
    except client.Refused as refusal:
        return client.fail(str(refusal), client.REFUSED)
    except client.Unreachable as error:
        return client.fail(str(error), client.UNREACHABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
