"""Runs commands in processes of their own, and kills them at a moment that can be met again.

A command is killed at the n-th time that it touches a file of its output, as Python's audit hooks
tell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["Launcher"]

CODE = '''
"""Reads lines of JSON: [arguments, folder, n, signal]; n -1 counts. Forked: torch loads once."""
import json, os, signal, sys
import medi2i.experiment, torchio, torch._dynamo, torch.utils.tensorboard
import medi2i.jobs.work, medi2i.formats.synthetic, medi2i.evaluation.structure
from medi2i.cli import main
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}

def child(arguments, folder, deadly, number):
    count = 0
    def hook(event, values):
        nonlocal count
        if event in EVENTS and values and str(values[0]).startswith(folder):
            count += 1
            if count == deadly:
                os.kill(os.getpid(), number)
    sys.addaudithook(hook)
    sys.argv = ["medi2i", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    print(json.dumps(count), flush=True)
    os._exit(code)

for line in sys.stdin:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        child(*json.loads(line))
    print(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)
'''


class Launcher:
    """Runs commands in children of one process that has loaded everything.

    Args:
        folder: for a file of its own.
        threads: of every library that computes.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        path = folder / "launcher.py"
        path.write_text(CODE)
        root = str(Path(__file__).parents[2])
        libraries = ("OMP", "MKL", "OPENBLAS")
        names = [f"{library}_NUM_THREADS" for library in libraries]
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        old = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, old]))
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",  # whatever a library has made of this process's locale
            env=environment,
        )

    def __call__(
        self, *arguments: object, watched: Path, deadly: int = -1, number: int = 9
    ) -> tuple[int, int]:
        """The exit status, and how often a file below `watched` was touched (0 if killed)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        words = [str(word) for word in arguments]
        self.process.stdin.write(json.dumps([words, str(watched), deadly, int(number)]) + "\n")
        self.process.stdin.flush()
        count = 0
        while True:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read() if self.process.stderr else ""
            try:
                told = json.loads(line)
            except ValueError:  # what the command itself says
                continue
            if isinstance(told, dict):
                return int(told["status"]), count
            count = int(told)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()
