#!/usr/bin/env python3
"""Makes a server's declarations and sets what the files in a directory say, and has devices told once at the end.

  *.json        a declaration
  set.NAME.txt  members of the set NAME, the identifier of a declaration a line; with a - before it, the declaration is
                taken out of the set. What follows a # is a comment

Files of other names, and all those whose names begin with a dot, are ignored; directories are searched too. What the
directory does not mention stays as it is on the server. All files are read before anything is sent: if one cannot be
used, nothing is.
"""

import argparse
import json
import os
import re
import signal
import sys
import urllib.parse

sys.dont_write_bytecode = True  # the directory of the tools may be one where nothing should be written

import client

# Declarations refer to those of the classes before theirs, and must not refer to what the server does not have.
CLASSES = ["asset", "management", "configuration", "activation"]

# Nobody is told of a change before all are made.
HELD = [("nonotify", 1)]
# How many names, and how large a declaration, the server takes.
MOST_NAMES = 10000
MOST_BYTES = 4 << 20


def no_number(text):
    raise ValueError(f"{text} is not JSON")


class Directory:
    """What the files say, and what is wrong with them."""

    def __init__(self):
        self.declarations = {}  # identifier: (place in the order of classes, file, text)
        self.sets = {}  # name: {identifier: (method, file)}
        self.problems = []

    def read(self, directory):
        def unreadable(error):
            self.problems.append(f"{error.filename}: {error.strerror}")

        for root, directories, files in os.walk(directory, onerror=unreadable):
            directories[:] = sorted(name for name in directories if not name.startswith("."))
            for name in sorted(files):
                path = os.path.join(root, name)
                of_set = re.fullmatch(r"set\.(.+)\.txt", name)
                if name.startswith(".") or not (of_set or name.endswith(".json")):
                    continue
                try:
                    with open(path, "rb") as file:
                        text = file.read()
                    if of_set:
                        self.read_set(of_set[1], path, text)
                    else:
                        self.read_declaration(path, text)
                except (OSError, ValueError, RecursionError) as error:
                    self.problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")

    def read_declaration(self, path, text):
        if len(text) > MOST_BYTES:
            # The server refuses it before it has read it, and whoever is still sending then does not see the answer.
            raise ValueError(f"is larger than {MOST_BYTES} bytes, which is all that the server takes")
        # Python takes more for JSON than the server does.
        declaration = json.loads(text.decode(), parse_constant=no_number)
        if not isinstance(declaration, dict):
            raise ValueError("is not a JSON object, as a declaration is")
        for key in ("Identifier", "Type"):
            if not isinstance(declaration.get(key), str) or not declaration[key]:
                raise ValueError(f"is not a declaration: it has no {key}")
        identifier = declaration["Identifier"]
        identifier.encode()  # raises what is caught where the file is read
        if identifier in self.declarations:
            raise ValueError(f"has the same Identifier as {self.declarations[identifier][1]}: {identifier}")
        parts = declaration["Type"].split(".")
        place = CLASSES.index(parts[2]) if len(parts) > 2 and parts[2] in CLASSES else len(CLASSES)
        self.declarations[identifier] = (place, path, text)

    def read_set(self, name, path, text):
        name.encode()  # raises what is caught where the file is read
        members = self.sets.setdefault(name, {})
        for line in text.decode("utf-8-sig").splitlines():
            identifier, method = line.partition("#")[0].strip(), "PUT"
            if identifier.startswith("-"):
                identifier, method = identifier[1:].strip(), "DELETE"
                if not identifier:
                    raise ValueError("has a line with nothing after the -")
            if not identifier:
                continue
            if members.get(identifier, (method,))[0] != method:
                raise ValueError(f"set {name}: {identifier} is both added and removed")
            members[identifier] = (method, path)


class Sync:
    """A synchronization, and what came of it."""

    def __init__(self, server):
        self.server = server
        self.changed_declarations = {}  # only the keys count, which stay in their order
        self.changed_sets = {}
        self.refusals = 0

    def change(self, path, changed, name, call, *arguments):
        """Makes one change. What is refused does not keep others from being made."""
        before = name in changed
        # Until the server has answered, nobody knows better: neither who is interrupted nor who gets no answer.
        changed[name] = True
        made = False
        try:
            made = call(*arguments, HELD)
        except client.Denied:
            if not before:
                del changed[name]
            raise
        except client.Refused as refusal:
            client.say(f"{path}: {refusal}")
            self.refusals += 1
        if not made and not before:
            del changed[name]
        return made

    def run(self, directory):
        for identifier, (_, path, text) in sorted(directory.declarations.items(), key=lambda item: (item[1][0], item[0])):
            if self.change(path, self.changed_declarations, identifier, self.server.put_declaration, text):
                print(f"declaration {identifier}: changed")
        for name, members in sorted(directory.sets.items()):
            for identifier, (method, path) in members.items():
                if self.change(path, self.changed_sets, name, self.server.change_set, method, name, identifier):
                    print(f"set {name}: {'added' if method == 'PUT' else 'removed'} {identifier}")

    def notify(self, declarations, sets):
        """Has everybody told who has one of the declarations or sets."""
        targets = [("declaration", identifier) for identifier in declarations] + [("set", name) for name in sets]
        try:
            for begin in range(0, len(targets), MOST_NAMES):
                # A form has room for more than a query.
                form = urllib.parse.urlencode(targets[begin : begin + MOST_NAMES]).encode()
                self.server.change("POST", "notify", (), form, "application/x-www-form-urlencoded")
        except (client.Refused, client.Unreachable, SystemExit):
            client.say("devices have not been told of the changes: run this again with --notify")
            raise
        if targets:
            print("devices are told")


def stop_in_order():
    """Has signals end the program as an error does, so that devices are told of what has been changed. A second one ends
    that too."""

    def stop(number, _):
        sys.exit(128 + number)  # no message yet: one may be half written

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=client.ENVIRONMENT + "\n" + client.EXIT_CODES,
    )
    parser.add_argument("directory", metavar="DIR", help="the directory")
    parser.add_argument(
        "--notify", action="store_true", help="have devices told of all that is in the directory, also if nothing changed"
    )
    client.add_arguments(parser)
    arguments = parser.parse_args()
    server = client.connect(parser, arguments)
    if not os.path.isdir(arguments.directory):
        parser.error(f"{arguments.directory} is not a directory")
    directory = Directory()
    directory.read(arguments.directory)
    if directory.problems:
        for problem in directory.problems:
            client.say(problem)
        return client.fail("nothing was sent", client.MISUSED)

    sync = Sync(server)
    stop_in_order()
    try:
        try:
            sync.run(directory)
        finally:
            # Whatever went wrong, those are told whom a change has reached: the next run would not know of it.
            if arguments.notify:
                sync.notify(directory.declarations, directory.sets)
            else:
                sync.notify(sync.changed_declarations, sync.changed_sets)
    except SystemExit as stopped:
        return client.fail("stopped by a signal", stopped.code)
    except client.Refused as refusal:
        return client.fail(str(refusal), client.REFUSED)
    except client.Unreachable as error:
        return client.fail(str(error), client.UNREACHABLE)
    if sync.refusals:
        return client.fail(f"{sync.refusals} refused", client.REFUSED)
    if not sync.changed_declarations and not sync.changed_sets:
        print("nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
