# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What stands for Python in :mod:`warm_python`: hands a command to the server, and ends as the command ends.

Called as ``warm_client.py SOCKET SHIM ARGUMENT...`` by a Python without site packages, which starts in no time.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
NO_ANSWER = 70  # EX_SOFTWARE


def main() -> int:
    address, shim, *given = sys.argv[1:]
    is_unbuffered = given[:1] == ["-u"]  # as torchrun starts its processes
    arguments = given[1:] if is_unbuffered else given
    if not is_forked(arguments):
        os.execv(sys.executable, [sys.executable, *given])

    request = {
        "shim": shim,
        "arguments": arguments,
        "unbuffered": is_unbuffered,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
        socket.send_fds(connection, [b"."], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = connection.recv(16)
    if not answer:
        print("the server of tests/helpers/warm_python.py ended", file=sys.stderr)
        return NO_ANSWER
    code = int(answer)
    if code < 0:
        if -code in FORWARDED:  # no longer: it ends this process too
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def is_forked(arguments: list[str]) -> bool:
    """Modules and programs; everything else, such as -c, is for a Python of its own."""
    return arguments[:1] == ["-m"] or (len(arguments) > 0 and arguments[0].endswith(".py"))


if __name__ == "__main__":
    sys.exit(main())
