"""``python -m results watch RUN``: the report of a run that goes on, served to a local browser."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import MachineFolder, RunFolder
from results.report.command import NAME, write_page

_ENDED: Final = frozenset({"done", "failed", "interrupted"})


def main(argv: Sequence[str]) -> int:
    """Keep the page up to date until the run has ended, or until Ctrl-C."""
    args = _parser().parse_args(argv)
    path = args.run_folder / NAME
    server = None if args.no_server else _serve(args.run_folder, args.port)
    where = path if server is None else f"http://127.0.0.1:{server.server_address[1]}/{NAME}"
    print(f"watching {args.run_folder}: {where} (Ctrl-C ends watching, not the run)", flush=True)
    try:
        while not _write(args.run_folder, path, args.every):
            time.sleep(args.every)
        print("the run has ended", flush=True)
        if server is not None and args.stay:
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
    print(path)
    return 0


def _write(folder: Path, path: Path, every: int) -> bool:
    """Write the page; True once the run has ended."""
    from results.load import load_run

    ended = has_ended(folder)
    try:
        runs = [load_run(folder)]
    except ValueError:
        if ended:
            raise
        print("nothing recorded yet", flush=True)
        return False
    write_page(runs, path, 0 if ended else every, time.strftime("%H:%M:%S"))
    return ended


def has_ended(folder: Path) -> bool:
    """Whether all machines of a run say that it is over."""
    machines = [*RunFolder(folder).machines().values()] or [MachineFolder(folder)]
    return all(read_object(machine.run).get("outcome") in _ENDED for machine in machines)


class _OnePage(SimpleHTTPRequestHandler):
    """Serves the page and nothing else of the folder, quietly."""

    def do_GET(self) -> None:
        if self.path.split("?")[0] not in ("/", f"/{NAME}"):
            self.send_error(404)
            return
        self.path = f"/{NAME}"
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _serve(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server on this computer's own address alone."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_OnePage, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"--port {port}: {error.strerror}; take another one, or 0") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m results watch",
        description="Serve the report of a run that is still going on, on this computer only.",
    )
    parser.add_argument("run_folder", type=Path, help="folder of a run")
    parser.add_argument("--every", type=int, default=5, help="seconds between updates (5)")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (a free one)")
    parser.add_argument("--no-server", action="store_true", help=f"only write RUN/{NAME}")
    parser.add_argument("--stay", action="store_true", help="go on serving after the run's end")
    return parser
