"""Host files and hostlists: what users write, what they get, and what they are told."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from allot.errors import NodeFileError
from allot.hostfile import node_names, parse_hostlist, parse_nodes, read_nodes
from allot.model import NodeSpec


def hosts(specs: tuple[NodeSpec, ...]) -> list[str]:
    return [spec.host for spec in specs]


def test_the_example_of_the_manual() -> None:
    """The host file of the manual means what the manual says."""
    text = """\
# one node a line
node01                             # an alias from the ssh config works as it is
alice@node02:2222  slots=4 gpus=2
node[03-12,20]     slots=2         # expands to node03 … node12, node20
[fd00::7]:2222
"""
    expanded = [NodeSpec(f"node{n:02}", slots=2) for n in (*range(3, 13), 20)]
    assert parse_nodes(text) == (
        NodeSpec("node01"),
        NodeSpec("node02", user="alice", port=2222, slots=4, gpus=2),
        *expanded,
        NodeSpec("fd00::7", port=2222),
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[01-03]", ["n01", "n02", "n03"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[08-10]", ["n08", "n09", "n10"]),
        ("n[098-100,7]", ["n098", "n099", "n100", "n7"]),
        ("n[001-2]", ["n001", "n002"]),
        ("n[5]", ["n5"]),
        ("n[5-5]", ["n5"]),
        ("n[3,1]", ["n3", "n1"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("[1-2][8-9]x", ["18x", "19x", "28x", "29x"]),
        ("[1-2].example.com", ["1.example.com", "2.example.com"]),
        ("n[0-1].rack-a_b+c", ["n0.rack-a_b+c", "n1.rack-a_b+c"]),
    ],
)
def test_brackets_expand_as_in_slurm(line: str, expected: list[str]) -> None:
    """Ranges, lists, zero padding and several groups expand in order, in both notations."""
    assert hosts(parse_nodes(line)) == expected
    assert hosts(parse_hostlist(line)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a", NodeSpec("a")),
        ("10.0.0.7:22", NodeSpec("10.0.0.7", port=22)),
        ("[::1]", NodeSpec("::1")),
        ("bob@[fe80::1%eth0]:65535", NodeSpec("fe80::1%eth0", user="bob", port=65535)),
        ("me@corp.org@n1", NodeSpec("n1", user="me@corp.org")),
        ("CORP\\me@n1", NodeSpec("n1", user="CORP\\me")),
        ("müller-pc", NodeSpec("müller-pc")),
        ("\t n1\tgpus=0  slots=007 ", NodeSpec("n1", slots=7, gpus=0)),
        ("n1 slots=1#", None),
        ("n1 #slots=1", NodeSpec("n1")),
        ("n1\t# slots=1 # twice", NodeSpec("n1")),
    ],
)
def test_one_line_of_a_host_file(line: str, expected: NodeSpec | None) -> None:
    """Users, ports, IPv6, keys and comments; a ``#`` inside a word is no comment."""
    if expected is None:
        with pytest.raises(NodeFileError):
            parse_nodes(line)
    else:
        assert parse_nodes(line) == (expected,)


def test_users_and_keys_hold_for_each_node_of_a_group() -> None:
    """What stands on a line is true of every node it expands to."""
    assert parse_nodes("alice@n[1-2]:2222 slots=4") == (
        NodeSpec("n1", user="alice", port=2222, slots=4),
        NodeSpec("n2", user="alice", port=2222, slots=4),
    )


def test_files_from_windows_are_read() -> None:
    """A byte order mark and CRLF line ends change nothing, line numbers included."""
    assert hosts(parse_nodes("\ufeffn1\r\n\r\nn2\r\n")) == ["n1", "n2"]
    with pytest.raises(NodeFileError) as caught:
        parse_nodes("\ufeffn1\r\n\r\n-n2\r\n")
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("n1 n2", "'n2' is not known here"),
        ("n1 cpus=4", "'cpus=4' is not known here"),
        ("n1 slots", "slots must be a decimal number, not ''"),
        ("n1 slots = 4", "slots must be a decimal number, not ''"),
        ("n1 slots=two", "slots must be a decimal number, not 'two'"),
        ("n1 slots=-1", "slots must be a decimal number, not '-1'"),
        ("n1 slots=٣", "slots must be a decimal number"),
        ("n1 slots=1 slots=2", "slots is given twice"),
        ("n1 slots=0", "slots must be 1 or more, not 0"),
        ("n1:", "the port must be a decimal number, not ''"),
        ("n1:ssh", "the port must be a decimal number, not 'ssh'"),
        ("n1:0", "the port must be from 1 to 65535, not 0"),
        ("n1:65536", "the port must be from 1 to 65535, not 65536"),
        ("n1:" + "9" * 5000, "the port must be a decimal number"),
        ("fd00::7", "an IPv6 address stands in brackets"),
        ("[fd00::g]", "'fd00::g' is not a host name"),
        ("[1::2::3]", "'1::2::3' is not a host name"),
        ("[fd00::7]x", "an IPv6 address stands in brackets"),
        ("n[1-3", "'n[1-3' holds a bracket without its partner"),
        ("n1-3]", "a bracket without its partner"),
        ("n[[1-3]]", "a bracket without its partner"),
        ("n[]", "'' is not a number or a range"),
        ("n[1,]", "'' is not a number or a range"),
        ("n[a-c]", "'a-c' is not a number or a range"),
        ("n[1-2-3]", "'1-2-3' is not a number or a range"),
        ("n[3-1]", "the range 3-1 runs backwards"),
        ("@n1", "'' is not a user name"),
        ("-l@n1", "'-l' is not a user name"),
        ("a;b@n1", "'a;b' is not a user name"),
        ("a\\@n1", "is not a user name"),
        ("alice@", "'' is not a host name"),
        ("n1,n2", "'n1,n2' is not a host name"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(line: str, told: str) -> None:
    """The message names the file, the line, the word that is wrong and what was expected."""
    with pytest.raises(NodeFileError) as caught:
        parse_nodes(f"# nodes\ngood slots=1\n{line}\n", path="hosts.txt")
    assert str(caught.value).startswith("hosts.txt, line 3: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.path, caught.value.line) == ("hosts.txt", 3)


HOSTILE = ["-oProxyCommand=reboot", "--", "..", ".", "a/b", "a\\b", "a\u202eb", "a\udc80b"]
HOSTILE += [f"a{character}b" for character in "'\"$`;|&<>()*?!%={}^\x00\x1b\x7f"]
HOSTILE += ["$HOME", "`id`", "~root", "ssh://n1"]


@pytest.mark.parametrize("host", HOSTILE)
def test_hostile_hosts_are_refused(host: str) -> None:
    """What ssh, a shell or a path could take for something else is no host, however given."""
    with pytest.raises(NodeFileError):
        parse_nodes(host)
    with pytest.raises(NodeFileError):
        parse_hostlist(host)
    with pytest.raises(NodeFileError):
        read_nodes([NodeSpec(host)])


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", " \t\r\n", "\ufeff"])
def test_an_empty_host_file_is_an_error(text: str) -> None:
    """A file without a node says so, with its name and how to write one."""
    with pytest.raises(NodeFileError, match=r"^hosts\.txt: no node in this host file; write"):
        parse_nodes(text, path="hosts.txt")


@pytest.mark.parametrize(
    ("text", "line", "twice"),
    [
        ("n1\nn2\nn1", 3, r"n1 stands here twice \(first in line 1\)"),
        ("n1:22\nbob@n1:22", 2, r"n1:22 stands here twice \(first in line 1\)"),
        ("n[1-3]\n\nn02\nn2", 4, r"n2 stands here twice \(first in line 1\)"),
        ("n[1-3,2]", 1, r"n2 stands here twice \(first in line 1\)"),
        ("[::1]:22\n[::1]:22", 2, r"\[::1\]:22 stands here twice"),
    ],
)
def test_a_node_may_stand_there_once(text: str, line: int, twice: str) -> None:
    """A host and port given again, by expansion or for another user, is an error."""
    with pytest.raises(NodeFileError, match=twice) as caught:
        parse_nodes(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ws[01-03],g2", ["ws01", "ws02", "ws03", "g2"]),
        ("a[1,3] b\nc,\td", ["a1", "a3", "b", "c", "d"]),
        (",a,,b,", ["a", "b"]),
        ("r[1-2]n[1,3],x", ["r1n1", "r1n3", "r2n1", "r2n3", "x"]),
    ],
)
def test_hostlists(text: str, expected: list[str]) -> None:
    """Commas outside brackets and white space separate; inside brackets they list numbers."""
    assert hosts(parse_hostlist(text)) == expected


def test_a_hostlist_takes_users_and_ports() -> None:
    """Each entry may be a whole address."""
    assert parse_hostlist("bob@a[1-2]:2200,[fd00::7]:22") == (
        NodeSpec("a1", user="bob", port=2200),
        NodeSpec("a2", user="bob", port=2200),
        NodeSpec("fd00::7", port=22),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no node in this hostlist"),
        (" , ", "no node in this hostlist"),
        ("a[1-2,b", r"'a\[1-2,b' holds a bracket without its partner"),
        ("a]1", "'a]1' holds a bracket without its partner"),
        ("a,b,a", r"a stands here twice \(first in entry 1\)"),
        ("a slots=4", "'slots=4' is not a host name"),
    ],
)
def test_what_is_wrong_with_a_hostlist(text: str, told: str) -> None:
    """The entry that is wrong is in the message; there is no file and no line."""
    with pytest.raises(NodeFileError, match=f"^{told}") as caught:
        parse_hostlist(text)
    assert (caught.value.path, caught.value.line) == (None, None)


def test_nodes_may_be_a_hostlist_or_lines_or_specs() -> None:
    """``nodes=`` takes a hostlist, or any mixture of host-file lines and NodeSpecs."""
    assert hosts(read_nodes("a[1-2],b")) == ["a1", "a2", "b"]

    def given_lines() -> Iterator[str | NodeSpec]:
        yield "n[1-2] slots=3  # two of them\n"
        yield "# no node here"
        yield NodeSpec("fd00::7", port=22, gpus=1)

    assert read_nodes(given_lines()) == (
        NodeSpec("n1", slots=3),
        NodeSpec("n2", slots=3),
        NodeSpec("fd00::7", port=22, gpus=1),
    )


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([], "nodes names no node"),
        (["# none"], "nodes names no node"),
        (["a", "b c"], r"nodes\[1\]: 'c' is not known here"),
        (["a", NodeSpec("a")], r"nodes\[1\]: a stands here twice \(first in nodes\[0\]\)"),
        ([NodeSpec("a", port=0)], r"nodes\[0\]: the port must be from 1"),
        ([NodeSpec("a", user="-l")], r"nodes\[0\]: '-l' is not a user name"),
        ([NodeSpec("a", slots=0)], r"nodes\[0\]: slots must be 1 or more"),
        ([NodeSpec("a", gpus=-1)], r"nodes\[0\]: gpus must be 0 or more"),
        ([NodeSpec("a" * 254)], r"nodes\[0\]: .* at most 253 characters"),
        ([7], r"nodes\[0\]: a node is a host-file line or a NodeSpec, not 7"),
        (7, "nodes must be a hostlist .* not 7; a host file is given as node_file"),
    ],
)
def test_what_is_wrong_with_nodes(nodes: list[str | NodeSpec], told: str) -> None:
    """The entry that is wrong is named by its place in the list."""
    with pytest.raises(NodeFileError, match=f"^{told}"):
        read_nodes(nodes)


@pytest.mark.parametrize(
    "line",
    [
        "n[0-999999999]",
        "n[1-999999999999999999]",
        "n[1-100001]",
        "n[1-400][1-400]",
        "n" + "[1-99999]" * 20,
        "n[" + "0" * 5000 + "1]",
        "n" + "[1]" * 20_000,
        "n" * 1_000_000 + "[1-99999]",
        "[1-2]" * 5000,
    ],
)
def test_an_expansion_out_of_bounds_costs_nothing(line: str) -> None:
    """A slip of the finger is an error, short and at once, not a machine out of memory."""
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(NodeFileError) as caught:
            parse_nodes(line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300
    # The text itself, cut into its pieces, may be there a few times; its expansion may not.
    assert peak < 60_000_000
    assert time.process_time() - began < 10


def test_the_most_nodes_there_may_be() -> None:
    """100,000 nodes are read; one more is an error that names the limit."""
    assert len(parse_nodes("n[1-100000]")) == 100_000
    with pytest.raises(NodeFileError, match="line 2: more than 100000 nodes"):
        parse_nodes("n[1-100000]\nm")


def test_nodes_are_named_by_their_host() -> None:
    """A node is called what the host file calls it; ports come in where they tell apart."""
    specs = parse_nodes("bob@a\nb:22\nc:1\nc:2\nc\n[::1]:1\n[::1]:2\n[::2]:1")
    assert node_names(specs) == ("a", "b", "c:1", "c:2", "c", "[::1]:1", "[::1]:2", "::2")
    assert node_names(()) == ()


# How long an example takes says more about the machine than about the code.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOSTS = st.text("abc019_.-+", min_size=1, max_size=8).filter(lambda host: host[0] not in "-.+")
SPECS = st.builds(
    NodeSpec,
    host=HOSTS | st.ip_addresses(v=6).map(str),
    user=st.none() | st.sampled_from(["alice", "bob-2", "me@corp.org"]),
    port=st.none() | st.integers(1, 65535),
    slots=st.none() | st.integers(1, 999),
    gpus=st.none() | st.integers(0, 999),
)
SPEC_LISTS = st.lists(SPECS, min_size=1, unique_by=lambda spec: (spec.host, spec.port))


@BUSY_MACHINE
@given(specs=SPEC_LISTS)
def test_what_is_written_is_read_back(specs: list[NodeSpec]) -> None:
    """Any nodes, written as a host file, come back the same, each under a name of its own."""
    lines = []
    for spec in specs:
        slots = f" slots={spec.slots}" if spec.slots is not None else ""
        gpus = f" gpus={spec.gpus}" if spec.gpus is not None else ""
        lines.append(f"{spec.address}{slots}{gpus}")
    assert parse_nodes("\n".join(lines)) == tuple(specs)
    assert read_nodes(lines) == read_nodes(specs) == tuple(specs)
    addresses = ",".join(spec.address for spec in specs)
    assert [spec.address for spec in parse_hostlist(addresses)] == addresses.split(",")
    assert len(set(node_names(specs))) == len(specs)


@BUSY_MACHINE
@given(
    prefix=st.sampled_from(["n", "node-", ""]),
    ranges=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 20), st.integers(1, 4)), min_size=1
    ),
    suffix=st.sampled_from(["", ".lab"]),
)
def test_a_group_is_its_numbers_written_out(
    prefix: str, ranges: list[tuple[int, int, int]], suffix: str
) -> None:
    """``[03-12,20]`` is every number between, padded to the first bound's width."""
    written, expected = [], []
    for first, more, width in ranges:
        low = str(first).zfill(width)
        written.append(f"{low}-{first + more}" if more else low)
        numbers = range(first, first + more + 1)
        expected += [f"{prefix}{str(n).zfill(len(low))}{suffix}" for n in numbers]
    line = f"{prefix}[{','.join(written)}]{suffix}"
    if len(set(expected)) == len(expected):
        assert hosts(parse_nodes(line)) == expected
    else:
        with pytest.raises(NodeFileError, match="twice"):
            parse_nodes(line)


@BUSY_MACHINE
@given(text=st.text() | st.text(alphabet="ab01[]-,@:#= \t\n\r\\\x00", max_size=40))
@example(text="[" * 10_000)
@example(text="a,[" * 10_000)
@example(text="@" * 10_000)
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever the text, there are nodes fit to be used or one clear error."""
    for read in (parse_nodes, parse_hostlist, lambda line: read_nodes([line])):
        try:
            specs = read(text)
        except NodeFileError:
            continue
        assert specs
        assert len({(spec.host, spec.port) for spec in specs}) == len(specs)
        assert not any(spec.host.startswith(("-", ".")) for spec in specs)
        assert not any(character in spec.host for spec in specs for character in " /'\"$\x00")
