"""The contract of units of work: killed, shared out, damaged or elsewhere, the results are equal.

What a stage adds to it is tested where the stage is; Ray in `test_ray.py`.
"""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, current_thread, main_thread

import polars as pl
import pytest

from mnemoscope.cluster import local
from mnemoscope.cluster.run import keeping_workers, run_units
from mnemoscope.cluster.storage import SharedStore
from mnemoscope.cluster.units import ALL, Needs, Opened, Share, Together, UnitStore
from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.progress import follow_progress
from study_files import content
from toy_units import TWO, Evaluated, Forgetful, Power, Reporting, make_each, powers, runs_of


def run(folder: Path, units=None, needs=Needs(), store=UnitStore) -> list:  # noqa: B008
    return list(run_units(powers() if units is None else units, store(folder), TWO, needs=needs))


@pytest.fixture
def whole(tmp_path) -> dict[str, bytes]:
    run(tmp_path / "whole")
    return content(tmp_path / "whole")


def test_results_come_in_order_and_are_kept_under_their_keys(tmp_path) -> None:
    found = run(tmp_path / "store", log := [Power(3), Power(1), Power(2), Power(3)])
    assert [one.key for one in found] == [unit.key for unit in log]
    for unit, one in zip(log, found, strict=True):
        assert one.table["power"].to_list() == [2 * unit.n, 2 * unit.n**2, 2 * unit.n**3]
        assert one.files["bin"].read_bytes() == bytes([unit.n] * 100)
        assert one.values == {"n": unit.n}
    assert sorted(UnitStore(tmp_path / "store").all_keys()) == ["power-1", "power-2", "power-3"]
    again = run(tmp_path / "store", log)
    assert [one.sha256 for one in again] == [one.sha256 for one in found]
    assert all(one.table.equals(two.table) for one, two in zip(again, found, strict=True))


def die_at_write(n: int, folder: Path) -> None:
    """Run all units, and be killed at the n-th file that gets its name."""
    replace, left = os.replace, [n]

    def dying(*names) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    os.replace = dying
    run(folder, powers(log=folder.with_suffix(".log")))


@pytest.mark.whole
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a thing of POSIX")
def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(whole, tmp_path, forkserver) -> None:
    folder, chance, n_killed = tmp_path / "killed", random.Random(0), 0
    while True:
        process = forkserver.Process(target=die_at_write, args=(chance.randint(1, 5), folder))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        n_killed += 1
    assert n_killed > 5
    runs = runs_of(folder.with_suffix(".log"))
    assert len(runs) <= 12 + n_killed  # a kill costs one unit
    run(folder)
    left = {name: data for name, data in content(folder).items() if not name.endswith(".tmp")}
    assert left == whole


@pytest.mark.parametrize("n", [2, 5, 20])
def test_shares_in_folders_of_their_own_copied_together_are_one_run(n, whole, tmp_path) -> None:
    log, together = tmp_path / "log", tmp_path / "together"
    units = powers(log=log)
    for number in random.Random(n).sample(range(1, n + 1), n):
        run(tmp_path / f"{number}", Share(number, n).of(units))
        if (tmp_path / f"{number}").exists():  # of more shares than units some have none
            shutil.copytree(tmp_path / f"{number}", together, dirs_exist_ok=True)
    assert sorted(runs_of(log)) == list(range(12))
    run(together, units)
    assert len(runs_of(log)) == 12  # all was there
    assert content(together) == whole
    assert ALL.of(units) == units


def test_units_made_together_have_each_its_own_result(whole, tmp_path) -> None:
    """Half of them missing, or one damaged, all are made, and what is whole stays as it is."""
    log, folder = tmp_path / "log", tmp_path / "together"
    units = powers(log=log)
    groups = [Together(tuple(units[at::3]), make_each) for at in range(3)]
    assert [one.size for one in groups] == [8, 8, 8]
    run(folder, groups)
    assert content(folder) == whole
    assert len(runs_of(log)) == 12
    run(folder, [*groups, *units])
    assert len(runs_of(log)) == 12
    (folder / f"{units[1].key}.bin").write_bytes(b"")
    (folder / f"{units[5].key}.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(folder, groups)
    assert sorted(runs_of(log)[12:]) == sorted([*(one.n for one in units[1::3]), *range(2, 12, 3)])
    assert content(folder) == whole
    kept = [path for path in before if units[0].key == path.stem or units[4].key == path.stem]
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)
    shared = SharedStore(str(tmp_path / "shared"))
    assert run(tmp_path / "shared", groups, store=lambda _: shared)[1].values == {}
    assert sorted(shared.all_keys()) == sorted(one.key for one in units)


DAMAGE = {  # of the bytes of a file, beside which another unit's are
    "flipped": lambda data, _: data[:40] + bytes([data[40] ^ 4]) + data[41:],
    "cut": lambda data, _: data[:-7],
    "empty": lambda *_: b"",
    "gone": lambda *_: None,
    "swapped": lambda _, other: other,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["parquet", "bin", "json"])
@pytest.mark.parametrize("store", [UnitStore, SharedStore])
def test_what_is_damaged_is_made_again_and_nothing_else(
    store, damage, name, whole, tmp_path, capsys
) -> None:
    folder, log = tmp_path / "store", tmp_path / "log"
    run(folder, store=store)
    path, other = (folder / f"power-{n}.{name}" for n in (5, 6))
    damaged = DAMAGE[damage](path.read_bytes(), other.read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)
    with follow_progress(lambda *_: (_Counted(), lambda: None)):
        found = run(folder, powers(log=log), store=store)
    assert [one.values["n"] for one in found] == [*range(12)]
    assert runs_of(log) == [5]
    is_gone = name == "json" and damaged is None  # then the unit is as if it had not run
    assert ("power-5: damaged" in capsys.readouterr().err) is not is_gone
    assert content(folder) == whole


@pytest.mark.parametrize("store", [UnitStore, SharedStore])
def test_results_of_another_study_are_made_again(store, tmp_path, capsys) -> None:
    log = tmp_path / "log"
    for owner, ran in (("us", [0, 1]), ("us", [0, 1]), ("them", [0, 1, 0, 1])):
        kept = store(tmp_path / "store", {"sequences": owner})
        with follow_progress(lambda *_: (_Counted(), lambda: None)):
            list(run_units(powers(2, log=log), kept, TWO))
        assert runs_of(log) == ran
    assert "power-1: damaged (it is of another study: its sequences" in capsys.readouterr().err


class _Counted:
    n = most = 0

    def advance(self, n: int = 1) -> None:
        self.n += n
        self.most = max(n, self.most)


def test_progress_counts_every_unit_once_whether_it_reports_or_is_kept(
    tmp_path, monkeypatch
) -> None:
    shown = []
    monkeypatch.setattr(local, "_LOOK_SECONDS", 0.01)

    def opener(label, total, unit):
        shown.append((total, _Counted()))
        return shown[-1][1], lambda: None

    with follow_progress(opener):
        run(tmp_path / "store", powers(7))
        run(tmp_path / "store")
        run(tmp_path / "store", needs=Needs(processes=2))
        run(tmp_path / "other", [Reporting(2), Reporting(5)], Needs(processes=2))
    counted = [(total, one.n) for total, one in shown]
    assert counted == [(14, 14), (24, 24), (24, 24), (7, 7)]
    assert max(one.most for _, one in shown[3:]) < 5  # a unit is counted while it runs


def test_several_processes_make_what_one_makes(whole, tmp_path) -> None:
    run(tmp_path / "several", needs=Needs(processes=2, threads=1))
    assert content(tmp_path / "several") == whole


@pytest.mark.parametrize("has_accelerator", [False, True])
def test_processes_stay_for_the_next_units_of_a_block(monkeypatch, has_accelerator) -> None:
    """But for those that may hold an accelerator's memory; each stage sees its own context."""
    monkeypatch.setattr(local, "_holds_accelerator", lambda: has_accelerator)
    asked, needs = [Evaluated("__import__('os').getpid()")] * 3, Needs(processes=2, threads=1)
    seen, products = [], []
    with keeping_workers():
        for factor in (2, 3):
            made = run_units(asked, None, Opened(partial(int, factor)), needs=needs)
            seen.append({one.values["value"] for one in made})
            made = run_units(powers(3), None, Opened(partial(int, factor)), needs=needs)
            products.append([one.values["parquet"]["power"][0] for one in made])
        with pytest.raises(ZeroDivisionError):
            list(run_units([Evaluated("1 / 0")] * 2, None, TWO, needs=needs))
        after = {one.values["value"] for one in run_units(asked, None, TWO, needs=needs)}
    assert products == [[0, 2, 4], [0, 3, 6]]
    if has_accelerator:
        assert not seen[0] & seen[1]
    else:
        assert len(seen[0] | seen[1]) <= 2  # of two workers one may take all three units
    assert not after & seen[1]
    assert multiprocessing.active_children() == []


def test_a_unit_that_fails_keeps_its_words_and_what_was_before_it(tmp_path) -> None:
    log = tmp_path / "log"
    units = [*powers(3, log=log), Evaluated("__import__('mnemoscope.errors').errors.nosuch")]
    store = UnitStore(tmp_path / "store")
    with pytest.raises(AttributeError, match="nosuch"):
        list(run_units(units, store, TWO))
    assert len(store.all_keys()) == 3
    run(tmp_path / "store", powers(3, log=log))
    assert runs_of(log) == [0, 1, 2]


def test_large_results_are_kept_behind_the_next_unit_and_what_fails_there_is_raised(
    tmp_path, monkeypatch
) -> None:
    """The second unit runs while the first is written; a full disk stops the run, as before it."""
    monkeypatch.setattr(local, "_LARGE", 100)
    log, began, threads = tmp_path / "log", Event(), set()

    class Waiting(UnitStore):
        def put(self, key, made):
            threads.add(current_thread())
            assert began.wait(60)
            if key == "power-2":
                raise NoRoomError("no room")
            return super().put(key, made)

    @dataclass(frozen=True)
    class Second(Power):
        def run(self, factor, progress):
            began.set()
            return super().run(factor, progress)

    units = [Power(0, log), Second(1, log), Power(2, log), Power(3, log), Power(4, log)]
    with pytest.raises(NoRoomError, match="no room"):
        list(run_units(units, store := Waiting(tmp_path / "store"), TWO))
    assert threads.isdisjoint({main_thread()})
    assert sorted(store.all_keys()) == ["power-0", "power-1"]
    assert runs_of(log) == [0, 1, 2, 3]  # one more than was kept, and no further


def test_a_result_that_is_not_where_it_was_put_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"power-0: .* it is not there. Give storage"):
        run(tmp_path / "store", powers(2), Needs(processes=2), Forgetful)


SCRIPT = """
import multiprocessing.context, os, sys
from dataclasses import dataclass
from pathlib import Path
from threading import Event, current_thread, main_thread
import mnemoscope.cli
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Needs
from toy_units import TWO, Evaluated
with open(Path(__file__).with_suffix(".runs"), "a") as runs:
    runs.write("x")
start = multiprocessing.context.ForkServerContext
preload = start.set_forkserver_preload
start.set_forkserver_preload = lambda context, names: preload(context, names[:1])
def values(*texts):
    units = [Evaluated(text) for text in texts]
    return [one.values["value"] for one in run_units(units, None, TWO, needs=Needs(2, threads=1))]
imports = "__import__('mnemoscope.cluster.ray') and 'ray' in __import__('sys').modules"
threads = "__import__('torch').get_num_threads()"
print(values("1 + 1", imports, "1 + 2", threads), "ray" in sys.modules)
os.environ["LATER"] = "here"
print(*values(*["__import__('os').environ['LATER']"] * 2))
"""


@pytest.mark.whole
def test_a_script_without_a_main_guard_runs_once(tmp_path) -> None:
    """Two workers do not run it again nor load Ray, have one thread, and know the environment."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[2, False, 3, 1] False\nhere here\n"
    assert script.with_suffix(".runs").read_text() == "x"


def test_a_store_of_results_knows_tables_of_any_ending(tmp_path) -> None:
    store, table = UnitStore(tmp_path), pl.DataFrame({"a": [1.5]})
    store.put("key", {"one.parquet": table, "two.parquet": table.head(0), "note": None})
    found = store.get("key")
    assert found.files["one.parquet"].equals(table)
    assert found.files["two.parquet"].is_empty()
    assert found.values == {"note": None}
    store.drop("key", found)
    assert list(tmp_path.iterdir()) == []
    store.put("key", {})
    store.remove_all()
    assert not tmp_path.exists()
