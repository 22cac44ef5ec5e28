"""A contestant in a process of its own: it is asked in lines of JSON, and answers so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any


class Contestant:
    """The process of `python -m MODULE NAME THREADS`, which says something of itself before the first question.

    greeting: that.  patience: how many seconds it may take for an answer; then it is ended.  Raises RuntimeError where
    the process ends without an answer.
    """

    def __init__(self, module: str, name: str, threads: int, patience: float | None = None) -> None:
        self.name, self.threads, self.patience = name, threads, patience
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
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self.process.kill()

        alarm = None if self.patience is None else threading.Timer(self.patience, end)
        if alarm is not None:
            alarm.start()
        line = self.process.stdout.readline()
        if alarm is not None:
            alarm.cancel()
        if not line:
            late = f" after {self.patience:g} s without an answer" if ended.is_set() else ""
            raise RuntimeError(f"the process of {self.name} ended with {self.process.wait()}{late}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process: it ends by itself when there are no more questions, or is ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
