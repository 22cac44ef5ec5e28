"""`python -m benchmarks {cpu,end-to-end,growth} [--help]`."""

from __future__ import annotations

import sys

from benchmarks import cpu, end_to_end, growth

PROGRAMS = {"cpu": cpu.main, "end-to-end": end_to_end.main, "growth": growth.main}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in PROGRAMS:
        sys.exit(f"usage: python -m benchmarks {{{','.join(PROGRAMS)}}} [--help]")
    PROGRAMS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()
