"""Shared by suites that consist of parts: the tests' own Python, and the command line."""
import argparse
import os
import pathlib
import sys

from broker import cache_dir


def use_own_python():
    """Re-executes in the tests' environment, which has the clients and the codecs."""
    python = cache_dir() / "venv/bin/python"
    if pathlib.Path(sys.prefix) != python.parents[1]:
        if not python.exists():
            sys.exit(f"{python} is missing: run tests/install")
        os.execv(python, [str(python), "-B", *sys.argv])


def parser(description, parts, full):
    """The parser for a suite with these parts; `full` describes --full."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--short", action="store_true", help="what every change must pass (the default)")
    made.add_argument("--full", action="store_true", help=full)
    made.add_argument("parts", nargs="*", metavar="PART", help=" ".join(parts))
    return made


def parse(made, parts):
    """The arguments: `parts`, and `scale`, which selects the short or the full size."""
    args = made.parse_args()
    if unknown := set(args.parts) - set(parts):
        made.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    args.parts = args.parts or parts
    args.scale = lambda short, full: full if args.full else short
    return args
