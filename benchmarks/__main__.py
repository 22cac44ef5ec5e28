"""`python -m benchmarks {cpu,end-to-end,growth} [--help]`."""

from __future__ import annotations

import argparse
import sys

import benchmarks
from benchmarks import cpu, end_to_end, growth

PROGRAMS = {"cpu": cpu.main, "end-to-end": end_to_end.main, "growth": growth.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("program", choices=PROGRAMS, help="each has a --help of its own")
    PROGRAMS[parser.parse_args(sys.argv[1:2]).program](sys.argv[2:])


if __name__ == "__main__":
    main()
