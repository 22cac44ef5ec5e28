"""A contestant in a process of its own: it is asked in lines of JSON, and answers so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any


class Contestant:
    """The process of `python -m MODULE NAME THREADS`, which says something of itself before the first question.

    greeting: that.  patience: how many seconds it may take for an answer; then it is ended.  late: whether it was.
    Raises RuntimeError where the process ends without an answer, or with something else than one.
    """

    def __init__(self, module: str, name: str, threads: int, patience: float | None = None) -> None:
        self.name, self.threads, self.patience, self.late = name, threads, patience, False
        few = {key: str(threads) for key in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **few, "MINIGRAD_BACKEND": "numpy"}, start_new_session=True,
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

        def end() -> None:
            self.late = True
            self._kill()

        alarm = None if self.patience is None else threading.Timer(self.patience, end)
        if alarm is not None:
            alarm.start()
        line = self.process.stdout.readline()
        if alarm is not None:
            alarm.cancel()
        if not line:
            late = f" after {self.patience:g} s without an answer" if self.late else ""
            raise RuntimeError(f"the process of {self.name} ended with {self.process.wait()}{late}")
        try:
            return json.loads(line)
        except ValueError:
            raise RuntimeError(f"the process of {self.name} answered {line!r:.80}, which is no JSON") from None

    def _kill(self) -> None:
        """Ends the process and all that it started, which would keep the pipe of its answers open."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the process: it ends by itself when there are no more questions, or is ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self._kill()
            self.process.wait()
