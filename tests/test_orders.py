"""Orders from one client to the one that drives the job: each is answered, and once."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BUSY_MACHINE, JOB, JSON, TEXT

from allot import paths
from allot.desk import OrderDesk
from allot.errors import AllotError, ConfigError, NodeError, TaskConfigError
from allot.memory import Memory
from allot.orders import Order, OrderBook

ORDERS = st.builds(
    Order,
    st.sampled_from(["cancel", "rerun", "drain", "resume", "down", "give way"]),
    st.none() | st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
    grace=st.floats(0, 86400),
    node=TEXT,
)
ERRORS = st.sampled_from([AllotError, ConfigError]).flatmap(
    lambda kind: TEXT.filter(bool).map(kind)
)


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    """Beside it the orders lie."""
    return tmp_path / "job.json"


@pytest.fixture
def book(state_file: Path) -> OrderBook:
    """The job's orders."""
    return OrderBook(state_file, JOB.job_id)


def left(state_file: Path) -> list[str]:
    """What lies there."""
    return sorted(path.name for path in state_file.parent.iterdir())


@settings(BUSY_MACHINE, max_examples=40)
@given(order=ORDERS, result=st.integers(0, 10**6) | ERRORS)
def test_an_order_arrives_and_its_answer_comes_back(
    tmp_path_factory: pytest.TempPathFactory, order: Order, result: int | AllotError
) -> None:
    """Whatever was ordered is what is taken; an error keeps its words and its kind."""
    state_file = tmp_path_factory.mktemp("orders") / "job.json"
    giver, driver = OrderBook(state_file, JOB.job_id), OrderBook(state_file, JOB.job_id)
    key = giver.give(order)
    assert giver.take_answer(key) is None
    assert driver.take() == [(key, order)]
    assert giver.take_answer(key) is None
    driver.answer(key, result)
    answer = giver.take_answer(key)
    if isinstance(result, AllotError):
        assert type(answer) is type(result)
        assert str(answer) == str(result)
    else:
        assert answer == result
    assert driver.take() == []
    assert type(giver.take_answer(key)) is type(answer)
    giver.withdraw(key)
    assert giver.take_answer(key) is None
    assert left(state_file) == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("no such task"), ConfigError),
        (TaskConfigError("no such task"), ConfigError),
        (NodeError("nd01", "gone"), AllotError),
    ],
)
def test_what_the_user_did_wrong_stays_a_configuration_error(
    book: OrderBook, error: AllotError, kind: type[AllotError]
) -> None:
    """So that it can be caught as one, whichever client drives the job."""
    key = book.give(Order("cancel"))
    book.answer(key, error)
    answer = book.take_answer(key)
    assert type(answer) is kind
    assert str(answer) == str(error)


def test_an_error_without_words_is_an_error(book: OrderBook) -> None:
    """It is not taken for success."""
    key = book.give(Order("cancel"))
    book.answer(key, ConfigError(""))
    assert isinstance(book.take_answer(key), ConfigError)


def test_orders_are_taken_oldest_first(book: OrderBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume that follows on a drain is not followed by it, whoever gave them."""
    given = []
    for number in range(12):
        monkeypatch.setattr(os, "getpid", lambda pid=10**6 - number: pid)
        given.append((book.give(Order("drain", node=f"nd{number}")), f"nd{number}"))
    assert [(key, order.node) for key, order in book.take()] == given
    assert [(key, order.node) for key, order in book.take()] == given
    book.answer(given[3][0], 0)
    assert [key for key, _ in book.take()] == [key for key, _ in given if key != given[3][0]]


def test_the_files_are_for_their_owner_only_and_whole(book: OrderBook, state_file: Path) -> None:
    """Neither order nor answer is ever seen in the making, or by others."""
    before = os.umask(0)
    try:
        key = book.give(Order("rerun", (1, 2)))
        [order] = state_file.parent.iterdir()
        assert order == paths.order_file(state_file, key)
        assert order.stat().st_mode & 0o777 == 0o600
        book.answer(key, 2)
    finally:
        os.umask(before)
    [answer] = state_file.parent.iterdir()
    assert answer == paths.answer_file(state_file, key)
    assert answer.stat().st_mode & 0o777 == 0o600


def test_an_order_that_was_followed_is_not_followed_twice(
    book: OrderBook, state_file: Path
) -> None:
    """Its driver died before it was answered, or the order removed: the next one only answers."""
    key = book.give(Order("rerun"))
    content = paths.order_file(state_file, key).read_bytes()
    first, obeyed = Memory(JOB), []

    def obey(order: Order) -> int:
        obeyed.append(order)
        return 3

    desk = OrderDesk(state_file, first, obey)
    assert not desk.follow()
    assert book.take_answer(key) == 3
    paths.order_file(state_file, key).write_bytes(content)
    desk.follow()
    assert book.take_answer(key) == 3
    paths.order_file(state_file, key).write_bytes(content)
    second = Memory(replace(JOB, followed=(key,)))
    OrderDesk(state_file, second, obey).follow()
    assert not book.waits(key)
    assert book.take_answer(key) is not None
    assert obeyed == [Order("rerun")]


def test_an_order_that_nobody_took_can_be_withdrawn(book: OrderBook, state_file: Path) -> None:
    """Then nobody follows it any more; once more, or too late, is no error."""
    first, second = book.give(Order("cancel")), book.give(Order("rerun"))
    assert book.waits(first)
    book.withdraw(first)
    book.withdraw(first)
    assert not book.waits(first)
    assert [key for key, _ in book.take()] == [second]
    assert book.waits(second)
    book.answer(second, 1)
    assert not book.waits(second)
    book.withdraw(second)
    assert left(state_file) == []


def test_an_order_withdrawn_while_all_are_read_is_passed_over(
    book: OrderBook, state_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are taken all the same."""
    first, second = book.give(Order("cancel")), book.give(Order("rerun"))
    real = Path.read_text

    def read(file: Path, **options: Any) -> str:
        book.withdraw(first)
        return real(file, **options)

    monkeypatch.setattr(Path, "read_text", read)
    assert [key for key, _ in book.take()] == [second]
    assert left(state_file) == [paths.order_file(state_file, second).name]


RUBBISH = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b"null",
    b"{}",
    b'{"kind": "cancel"}',
    b'{"job_id": "j1", "order": "cancel"}',
    *(
        b'{"job_id": "j1", "order": %b}' % order
        for order in (
            b"{}",
            b'{"kind": "explode"}',
            b'{"kind": ["cancel"]}',
            b'{"kind": "cancel", "proc_ids": 1}',
            b'{"kind": "cancel", "proc_ids": ["1"]}',
            b'{"kind": "cancel", "color": 1}',
        )
    ),
]


@pytest.mark.parametrize("content", RUBBISH)
def test_what_is_no_order_is_answered_so_and_stops_no_other(
    book: OrderBook, state_file: Path, content: bytes
) -> None:
    """Of another version, or torn: whoever gave it is told, the others are followed."""
    paths.order_file(state_file, "0000-rubbish").write_bytes(content)
    key = book.give(Order("cancel"))
    assert book.take() == [(key, Order("cancel"))]
    answer = book.take_answer("0000-rubbish")
    assert isinstance(answer, ConfigError)
    assert str(answer).startswith(f"{paths.order_file(state_file, '0000-rubbish')} is no order: ")
    book.withdraw("0000-rubbish")
    assert left(state_file) == [paths.order_file(state_file, key).name]


@pytest.mark.parametrize("grace", ["Infinity", "-1", "1e30"])
def test_an_order_with_a_grace_that_nobody_may_ask_for_is_answered_so(
    book: OrderBook, state_file: Path, grace: str
) -> None:
    """No script can be made of it, and no node could be sent anything any more."""
    file = paths.order_file(state_file, "k")
    file.write_text(f'{{"job_id": "j1", "order": {{"kind": "cancel", "grace": {grace}}}}}')
    assert book.take() == []
    assert isinstance(book.take_answer("k"), ConfigError)


def test_an_order_for_an_earlier_job_of_the_name_is_answered_so(
    book: OrderBook, state_file: Path
) -> None:
    """To cancel a job never cancels the one that took its name."""
    earlier = OrderBook(state_file, "j0")
    key, mine = earlier.give(Order("cancel")), book.give(Order("rerun"))
    assert book.take() == [(mine, Order("rerun"))]
    answer = earlier.take_answer(key)
    assert type(answer) is AllotError
    assert "was meant for job j0" in str(answer)


@settings(BUSY_MACHINE, max_examples=60)
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_order_or_answered(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """The driver of a job never stumbles over what others put there."""
    state_file = tmp_path_factory.getbasetemp() / "fuzzed.json"
    book = OrderBook(state_file, JOB.job_id)
    paths.order_file(state_file, "k").write_bytes(content)
    taken = book.take()
    if taken:
        assert isinstance(taken[0][1], Order)
        paths.order_file(state_file, "k").unlink()
    else:
        assert isinstance(book.take_answer("k"), ConfigError)


def test_a_directory_called_like_an_order_stops_no_other(book: OrderBook, state_file: Path) -> None:
    """It is none, and is left or removed."""
    paths.order_file(state_file, "0000-rubbish").mkdir()
    key = book.give(Order("cancel"))
    for _ in range(2):
        assert [one for one, _ in book.take()] == [key]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"count": "1"}', b"[" * 100_000])
def test_an_answer_that_makes_no_sense_is_an_error(
    book: OrderBook, state_file: Path, content: bytes
) -> None:
    """Whoever waits for it is told, with the file's name, and does not wait for ever."""
    file = paths.answer_file(state_file, "k")
    file.write_bytes(content)
    answer = book.take_answer("k")
    assert type(answer) is AllotError
    assert str(answer).startswith(f"{file}: the answer to an order makes no sense: ")


def test_what_is_beside_the_orders_is_left(book: OrderBook, state_file: Path) -> None:
    """The state, its journal, leases, and what is being written."""
    others = ["job.json", "job.1-0.journal", "job.1.lease", "job.k.order.0a.tmp", "x.k.order"]
    for name in others:
        (state_file.parent / name).touch()
    assert book.take() == []
    assert left(state_file) == sorted(others)


@pytest.mark.parametrize(("name", "longer"), [("a", "a.1"), ("a", "a.b"), ("a.1", "a.1.2")])
def test_jobs_whose_names_begin_alike_do_not_take_each_others_orders(
    tmp_path: Path, name: str, longer: str
) -> None:
    """To cancel one job never cancels another."""
    book = OrderBook(tmp_path / f"{name}.json", "j1")
    other = OrderBook(tmp_path / f"{longer}.json", "j2")
    key = other.give(Order("cancel"))
    mine = book.give(Order("rerun"))
    assert book.take() == [(mine, Order("rerun"))]
    assert other.take() == [(key, Order("cancel"))]


@pytest.mark.parametrize("name", ["a" * 200, "ö" * 100], ids=["a", "ö"])
def test_a_job_with_a_long_name_can_be_given_orders(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may have 200 bytes; a process number up to 7 digits."""
    monkeypatch.setattr(os, "getpid", lambda: 2**22)
    book = OrderBook(tmp_path / f"{name}.json", "j1")
    key = book.give(Order("cancel"))
    assert book.take() == [(key, Order("cancel"))]
    book.answer(key, 1)
    assert book.take_answer(key) == 1


def test_a_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    """An order that cannot be written is an error, and none that wait cannot be looked for."""
    book = OrderBook(tmp_path / "gone" / "job.json", "j1")
    with pytest.raises(FileNotFoundError):
        book.give(Order("cancel"))
    with pytest.raises(FileNotFoundError):
        book.take()
    assert book.take_answer("k") is None
    book.withdraw("k")
