"""``hepfm`` for shell scripts that start many commands: a server that has imported everything forks for each.

A command costs 4 s of imports by itself. The program on PATH sends its arguments, folder, environment and open
standard streams; the forked process is then as if it had been started there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

IMPORTS = (
    "torch",
    "deepspeed",
    "hepfm.released.loading",
    "hepfm.benchmarks.demo",
    "hepfm.benchmarks.reports.shower_command",
    "hepfm.benchmarks.transfer.command",
    "hepfm.benchmarks.tagging.command",
    "hepfm.ingest.gflash.simulation",
    "hepfm.finetune.tag",
)

CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(told).to_bytes(8, "big")], [0, 1, 2])
server.sendall(told)
pid = int.from_bytes(server.recv(8), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


def serve(folder: Path) -> int:
    """Start the server; its ``hepfm`` lies in ``folder``. Returns the server's process id."""
    address = str(folder / "socket")
    client = folder / "hepfm"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that served
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _one(connection)
            connection.close()
    listening.close()
    return pid


def _one(connection: socket.socket) -> None:
    """Be the command that a client asks for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    wanted, told = int.from_bytes(size, "big"), b""
    while len(told) < wanted:
        told += connection.recv(wanted - len(told))
    arguments, here, environment = json.loads(told)
    connection.sendall(os.getpid().to_bytes(8, "big"))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(here)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hepfm", *arguments]
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    code = 1
    try:
        from hepfm.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([code]))
        os._exit(code)
