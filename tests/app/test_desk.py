"""The desk: one at a time, in order, cancelled where wanted, free again whatever happens."""

import threading
import time

import pytest

from mnemoscope.app import check_host
from mnemoscope.app import page as desk_module
from mnemoscope.app.page import Cancelled, Desk, DeskJob
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from study_files import wait_until

LONG = 60.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(desk_module, "_POLL_SECONDS", 0.005)


class Steps:
    """Work of many steps, each waiting for `go`."""

    def __init__(self, n: int = 3) -> None:
        self.n, self.n_done, self.go, self.began = n, 0, threading.Semaphore(0), threading.Event()

    def __call__(self) -> int:
        self.began.set()
        with track("steps", total=self.n, unit="steps") as progress:
            for _ in range(self.n):
                assert self.go.acquire(timeout=LONG)
                self.n_done += 1
                progress.advance()
        return self.n_done


def test_jobs_run_one_at_a_time_in_the_order_of_coming():
    desk, order, running, seen = Desk(), [], [], set()

    def work(name: int):
        def run() -> int:
            running.append(name)
            assert running == [name]
            time.sleep(0.01)
            running.remove(name)
            order.append(name)
            return name

        return run

    first = Steps(3)
    job = DeskJob(first)
    held = desk.follow(job)
    next(held)
    jobs = [DeskJob(work(number)) for number in range(4)]
    followers = [desk.follow(job) for job in jobs]
    assert [next(one).n_before for one in followers] == [1, 2, 3, 4]
    for standing in held:
        seen.add((standing.label, standing.done, standing.total))
        first.go.release()
    assert job.result() == 3
    assert ("steps", 0, 3) in seen  # progress is told
    for one in followers:
        list(one)
    assert order == [0, 1, 2, 3]
    assert [job.result() for job in jobs] == [0, 1, 2, 3]


def test_a_running_job_stops_at_its_next_step_and_a_waiting_one_never_runs():
    first, second, desk = Steps(1000), Steps(1), Desk()
    jobs = DeskJob(first), DeskJob(second)
    followers = [desk.follow(job) for job in jobs]
    for one in followers:
        next(one)
    assert first.began.wait(LONG)
    jobs[1].cancel()
    with pytest.raises(Cancelled):
        list(followers[1])
    jobs[0].cancel()
    first.go.release(1000)
    list(followers[0])
    with pytest.raises(Cancelled):
        jobs[0].result()
    wait_until(lambda: desk.is_free)
    assert first.n_done <= 1
    assert not second.began.is_set()


@pytest.mark.parametrize("goes", [True, False])
def test_a_reader_that_goes_or_never_comes_back_blocks_nobody(goes):
    work, desk = Steps(1000 if goes else 1), Desk()
    follower = desk.follow(DeskJob(work))
    next(follower)
    if goes:  # then the work is cancelled too
        follower.close()
    work.go.release(work.n)
    assert desk.ask(lambda: "next") == "next"
    assert work.n_done <= 1


def test_an_error_is_raised_where_the_result_is_asked_for():
    desk, job = Desk(), DeskJob(lambda: check_host("example.org"))
    list(desk.follow(job))
    with pytest.raises(UserError, match="this machine alone"):
        job.result()
    assert desk.ask(lambda: 1) == 1


def test_a_crowd_is_refused():
    work, desk = Steps(1), Desk()
    followers = [desk.follow(DeskJob(work)), *[desk.follow(DeskJob(int)) for _ in range(8)]]
    for one in followers:
        next(one)
    with pytest.raises(UserError, match="too many"):
        next(desk.follow(DeskJob(int)))
    work.go.release()
    for one in followers:
        list(one)
    assert desk.is_free
