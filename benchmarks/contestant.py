"""A contestant in a process of its own: it is asked in lines of JSON, and answers so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


class Contestant:
    """The process of `python -m MODULE NAME THREADS`, which says something of itself before the first question.

    greeting: that.  Raises RuntimeError where the process ends without an answer.
    """

    def __init__(self, module: str, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        few = {key: str(threads) for key in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **few, "MINIGRAD_BACKEND": "numpy"},
        )  # fmt: skip
        try:
            self.greeting = self._read()
        except RuntimeError:
            self.close()
            raise

    def ask(self, question: Any) -> Any:
        """The answer to a question."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
