"""One process at a time: claims, those of the dead, tables that several keep, shards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from medi2i.errors import OutputError, UsageError
from medi2i.jobs import claims
from medi2i.jobs.claims import claimed, waited_for
from medi2i.jobs.crew import shard_of
from medi2i.jobs.tables import keep_table


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.claim"
    with claimed(path) as first:
        assert first
        for _ in range(2):
            with claimed(path) as second:
                assert not second
        assert path.is_file()
    assert not path.parent.exists()
    with claimed(path) as again:
        assert again


def test_threads_take_turns(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(5):
            with waited_for(tmp_path / "x.claim"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_dead_process_owns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    (tmp_path / "other.claim").touch()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {
        "Host": socket.gethostname(),
        "Process": process.pid,
        "Started": claims._started(process.pid),
        "Token": "abc",
    }
    path.write_text(json.dumps(owner))
    with claimed(path) as mine:
        assert not mine  # it lives
    process.kill()
    process.communicate()
    with claimed(path) as mine:
        assert mine
    path.write_text(json.dumps({**owner, "Process": os.getpid(), "Started": 1.0}))
    with claimed(path) as mine:  # another process has its number now
        assert mine
    assert [one.name for one in tmp_path.iterdir()] == ["other.claim"]


@pytest.mark.parametrize("content", ['{"Host": "elsewhere", "Process": 1, "Token": "t"}', "{"])
def test_another_machine_is_believed_for_ten_minutes(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.claim"
    path.write_text(content)
    with claimed(path) as mine:
        assert not mine
    os.utime(path, (time.time() - claims.SILENT - 60,) * 2)
    with claimed(path) as mine:
        assert mine


def test_one_who_was_killed_while_claiming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "STUMP", 0.2)
    path = tmp_path / "x.claim"
    path.touch()
    with claimed(path) as mine:
        assert mine


def test_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The living stay alive; the dead of another machine die ten minutes later."""
    path = tmp_path / "a.claim"
    with claimed(path) as mine:
        assert mine
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1e9)
        with claimed(path) as other:
            assert not other
    monkeypatch.undo()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"Host": "elsewhere", "Process": 1, "Started": "", "Token": "x"}))
    os.utime(path, (time.time() + 9e6,) * 2)
    with claimed(path) as mine:
        assert not mine
    assert abs(path.stat().st_mtime - time.time()) < 60
    os.utime(path, (time.time() - claims.SILENT - 60,) * 2)
    with claimed(path) as mine:
        assert mine


def test_an_owner_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.01)
    path = tmp_path / "x.claim"
    with claimed(path):
        os.utime(path, (0, 0))
        until = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_waiting_ends(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "x.claim"),
        pytest.raises(OutputError, match="is held by another process"),
        waited_for(tmp_path / "x.claim", seconds=0.1),
    ):
        pass


def test_a_table_keeps_the_lines_of_others(tmp_path: Path) -> None:
    table = tmp_path / "logs" / "failures.tsv"
    columns = ("participant_id", "session_id", "problem")

    def line(person: str, problem: str) -> dict[str, str]:
        return {"participant_id": person, "session_id": "", "problem": problem}

    assert keep_table(table, columns, {("sub-2", "")}, [line("sub-2", "b")])
    assert keep_table(table, columns, {("sub-1", "")}, [line("sub-1", "a")])
    head = "participant_id\tsession_id\tproblem\n"
    assert table.read_text() == f"{head}sub-1\tn/a\ta\nsub-2\tn/a\tb\n"
    assert keep_table(table, columns, {("sub-2", "")}, [])
    assert table.read_text() == f"{head}sub-1\tn/a\ta\n"
    assert not keep_table(table, columns, {("sub-1", "")}, [])
    assert not table.exists()
    assert not keep_table(table, columns, {("sub-1", "")}, [])


def array(
    task: int, *, first: int = 0, last: int = 9, count: int = 10, step: int = 1
) -> dict[str, str]:
    """What SLURM says to a task."""
    said = {"ID": task, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in said.items()}


def test_shards() -> None:
    assert shard_of("1/1", array(3)) == (1, 1)
    assert shard_of(None, {}) == (1, 1)
    assert shard_of(None, array(0)) == (1, 10)
    assert shard_of(None, array(10, first=1, last=10)) == (10, 10)
    assert shard_of(None, array(6, first=2, last=8, count=4, step=2)) == (3, 4)
    for wrong in ("0/2", "3/2", "2", "a/b", "-1/2"):
        with pytest.raises(UsageError, match="1/N to N/N"):
            shard_of(wrong, {})
    with pytest.raises(UsageError, match="evenly spaced"):
        shard_of(None, array(5, first=1, last=9, count=3))  # --array=1,5,9
    with pytest.raises(UsageError, match="how many tasks"):
        shard_of(None, {"SLURM_ARRAY_TASK_ID": "1"})
