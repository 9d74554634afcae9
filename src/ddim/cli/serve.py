"""`ddim serve`: show runs on a page in the browser, sample them there and start trainings."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli.output import print_result

_EPILOG = """
The page lists the runs in FOLDER while they train, shows their samples and curves, generates new images, and
edits and compares them. It needs the extra packages of `pip install "ddim[web]"`. Only this machine can open
the page. With --host, other machines can too, and then each request needs the token: the address that the
command prints contains it.

With --data, the page may also start, stop and resume trainings. They go on after the server has ended.

examples:
  ddim serve
  ddim serve runs --data photos --open
  ddim serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim serve`."""
    parser.usage = "ddim serve [FOLDER] [--host H] [--port 8000] [--token T] [--data FOLDER] [--open]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="folder of the runs (default: runs)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen at (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="P", help="port; 0 takes a free one (default: 8000)"
    )
    parser.add_argument(
        "--token", metavar="T", help="secret of at least 22 random letters and digits (default: none)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="let the page start trainings on images in this folder"
    )
    parser.add_argument("--open", action="store_true", dest="opening", help="open the page in a browser")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from ddim.web.serve import serve

    def tell(address: str) -> None:
        text = f"the runs in {args.folder} are shown at {address}; Ctrl-C ends the server"
        print_result(args, {"address": address}, address if args.quiet else text)

    serve(
        args.folder,
        host=args.host,
        port=args.port,
        token=args.token,
        data=args.data,
        opening=args.opening,
        ready=tell,
    )
    return 0
