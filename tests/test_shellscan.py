"""Where in a Bash line a quoted word means its text: what real Bash does is the measure."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.errors import ConfigError
from allot.shellscan import Place, places
from allot.template import Template

HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`'`touch pwned`\"$(touch pwned)",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "\\'; touch pwned; '",
    "a\ntouch pwned\n",
    "E\ntouch pwned\n",
    "x) touch pwned;; a",
    ") touch pwned; (",
    "a[$(touch pwned)]",
    "($(touch pwned))",
    "trailing\\",
    "\\",
    "esac",
    "2",
    "a=1",
]
PIECES = [
    *("'", '"', "$'", '$"', "`", "$(", "(", ")", "((", "))", "$((", "$[", "]", "${x:-", "${x#"),
    *("}", "{", "#", " # it's\n", "\n", "<<E", "\nE\n", "<<<", ">&", ">", "<(", "$$", "$", "\\"),
    *("\\\n", "case x in a)", "case x in", ";;", " ;; esac", ";", " ", "&&", "|", "x", "1", "="),
    *("echo ", "true ", ": ", "printf %s ", "[[ ", " ]]", " -eq ", " =~ ", "@(", "a=(", "a["),
]
# What begins and ends a nest, so that real Bash accepts more of the lines.
NESTS = [
    *(('"', '"'), ("'", "'"), ("$'", "'"), ("`echo ", "`"), ("$(echo ", ")"), ("( echo ", " )")),
    *(("${x:-", "}"), ('"${x:-', '}"'), ("$((", "))"), ("((echo ", ") )"), ("a[", "]=1")),
    *(("case x in a) echo ", ";; esac"), ('"$(case x in x) echo ', ';; esac)"')),
    *(("[[ x -eq ", " ]]"), ("cat <<E\n", "\nE\n"), ("echo >&", " "), ("# ", "\n"), ("a=(", ")")),
]


def _nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    nested = st.tuples(st.sampled_from(NESTS), inner).map(lambda one: one[1].join(one[0]))
    return st.one_of(nested, st.lists(st.one_of(nested, inner), max_size=3).map("".join))


_SMALL = st.one_of(st.just("{line}"), st.just(" {line} "), st.sampled_from(PIECES))
_LINES = st.lists(st.recursive(_SMALL, _nest, max_leaves=6), min_size=1, max_size=4).map("".join)

_RUN_EACH = """
cd "$1"; shift
for line; do
    (eval "$line") < /dev/null > /dev/null 2>&1
    [ -e pwned ] && printf '%s\\0' "$line" && rm -f pwned
done
exit 0
"""


def _bash(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=directory,
        timeout=60,
        check=False,
    )


def _is_bash(line: str) -> bool:
    return _bash(Path(), "-n", "-c", line).returncode == 0


def _accepted(line: str) -> Template | None:
    try:
        template = Template(line, "x")
    except ConfigError:
        return None
    return template if template.spots else None


def _ran(lines: list[str]) -> list[tuple[str, str]]:
    """The lines in which a value was run, with what was filled in."""
    taken = [template for template in map(_accepted, lines) if template]
    filled = {
        template.fill({"line": value}): (template.fill({"line": "x"}), value)
        for template in taken
        for value in HOSTILE
    }
    with TemporaryDirectory() as directory:
        done = _bash(Path(directory), "-c", _RUN_EACH, "bash", directory, *filled)
    assert done.returncode == 0, done.stderr
    hits = [filled[line] for line in done.stdout.split("\0")[:-1]]
    return [(line, value) for line, value in hits if _is_bash(line)]


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(_LINES, min_size=10, max_size=30))
def test_no_value_is_run(lines: list[str]) -> None:
    """Whatever line Allot accepts: a value that is filled in is never taken for Bash."""
    assert _ran([line if "{line}" in line else f"{line} {{line}}" for line in lines]) == []


@settings(max_examples=200, deadline=None)
@given(st.one_of(_LINES, st.text(), st.text("'\"\\$`(){}[]<>#\n caseE=&", max_size=30)))
def test_any_text_has_places(line: str) -> None:
    """One for each character, also where it is no Bash."""
    assert len(places(line)) == len(line)


def place(line: str) -> Place | None:
    """The place of the ``@`` in a line."""
    return places(line)[line.index("@")]


@pytest.mark.parametrize(
    "line",
    [
        "echo @",
        "a 'b' \"c\" $'d\\'' $\"e\" @",
        'echo "$(cat @)"',
        "echo $(cat @) `x` @",
        'echo "$(echo "$(cat \'\' @)")"',
        'echo ${x} ${x:-y} ${#x} "${x:-"a b"}" ${x%.*} ${x//\\//_} ${a[*]} @',
        "(( i < ${#a} + 16#f )) && echo $((1 << 2)) $(( $(nproc) - 1 )) @",
        "for ((i = 0; i < (3); i++)); do echo @; done",
        "case x in a) echo @;; esac",
        "echo $(case x in a) echo @;; esac) @",
        "echo x \\\n  --y @",
        "echo x\\\n  --y @",
        'echo "x\\\ny" @',
        "echo a#b # it's\ncat @",
        "cat <<< @",
        "[ @ -eq 1 ]",
        "[[ @ == x* ]] && [[ 1 -eq 1 ]]",
        "ls a[0-9] @",
        "echo > @ 2>&1",
        "echo '>&x' \">&x\" 2>&1 1>&2; echo x >&$fd 3>&- 4<&${fd[1]} @",
        "echo '$$(' \"$$\" '[[ ]]' @",
        "echo '\\' @",
        "(cd x && echo @)",
        "[[ $(nproc) -gt (4) ]] && echo @",
        "let x=1; echo @",
        "echo 'let it' @",
        "test -n @; [ -a @ ]",
        "[ -v x ] && echo @ | test -n @",
        "$(let x=1) @",
        "outlet @; python --let @ -v @",
        "f() { local x=@ y; echo $x; }",
        "export A=@ && a[0]=@",
        "echo lists=[@,@] --x=[@]",
        '"$(basename lowercase)" @',
        "make >& make.log; echo x >&../a-b @",
    ],
)
def test_plain(line: str) -> None:
    """Here a quoted word is its text."""
    assert place(line) is Place.PLAIN


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo '@'", Place.QUOTES),
        ("echo $'\\'@'", Place.QUOTES),
        ('echo "@"', Place.QUOTES),
        ('echo $"@"', Place.QUOTES),
        ("echo \"$(echo '@')\"", Place.QUOTES),
        ('echo "a"b"@"', Place.QUOTES),
        ("echo `cat @`", Place.BACKTICKS),
        ('echo "`cat @`"', Place.BACKTICKS),
        ("echo `cat \\` @", Place.BACKTICKS),
        ("echo $((@ + 1))", Place.ARITHMETIC),
        ('echo "$((@ + 1))"', Place.ARITHMETIC),
        ("((@ > 1))", Place.ARITHMETIC),
        ("echo ${x:-@}", Place.EXPANSION),
        ('echo "${x:-$(cat @)}"', Place.EXPANSION),
        ("echo ${x:-`cat @`}", Place.EXPANSION),
        ("# @", Place.COMMENT),
        ("echo $(true; # @\n)", Place.COMMENT),
        ("cat <<E\n@\nE\n", Place.HEREDOC),
        ("cat <<- @\nE\n", Place.HEREDOC),
        ("cat <<E; echo x\n\nE\necho @", Place.HEREDOC),
        ("echo \\@", None),
        ('echo "\\@"', None),
    ],
)
def test_elsewhere(line: str, expected: Place | None) -> None:
    """Here it would be read, or is no text of the line's."""
    assert place(line) is expected


@pytest.mark.parametrize(
    "line",
    [
        # calculated, though it is quoted
        "[[ @ -eq 1 ]]",
        "[[ (1 -eq @) ]]",
        '[[ " ]] " == x || 1 -lt @ ]]',
        "[[ -v @ ]]",
        "[[ x -eq @",
        "a[@]=1",
        "a[ b[0] + @ ]=1",
        "a=([@]=1)",
        "a=( [ @ ]=1)",
        # the end of another test, or of none, is not that of this one
        "[[ $([[ x ]]) -eq @ ]]",
        "[[ $(echo ]] ) -eq @ ]]",
        '[[ "$(echo ]] )" -eq @ ]]',
        "[[ $(case x in x) echo ]] ;; esac) -eq @ ]]",
        "[[ x == \v]] || @ -eq 1 ]]",
        "[[ x == \u00a0]] || @ -eq 1 ]]",
        # a name can be put together
        'declare "a"[@]=1',
        "declare ${x}[@]=1",
        "declare $*[@]=1",
        "declare `echo a`[@]=1",
        # by commands of Bash's own
        "let @",
        "true && let x=1 y=@",
        "declare -i x=@",
        "declare -r -i x=@",
        "local -a x=@",
        "declare -A x=@",
        "declare -n x=@",
        "declare @=1",
        "declare >| x 2>&1 &> y \\\n @=1",
        "declare 'a;' $(true; echo b) @=1",
        "[ x = x -a -v @ ]",
        "f() { local x=1 @; }",
        "[ -v @ ]",
        "test ! -v @",
        "printf -v @ x",
    ],
)
def test_calculated(line: str) -> None:
    """Bash takes a quoted text for arithmetic or a list, in which ``a[$(...)]`` is run."""
    assert place(line) is Place.ARITHMETIC


@pytest.mark.parametrize(
    "line",
    [
        'echo "$(case a in a) echo x;; esac)" @',
        'echo "${x:-$(case a in a) echo } " @ " ;; esac)}"',
        "echo ${x:-$(cat <<E\n'\nE\n)} @",
        "echo ${x:-$(echo # '\n)} @ ' )}",
        "echo ${x#'}'} @",
        "echo ${x/(/_} @",
        "echo ${x:-$'}'} @",
        "echo ${ echo; } @",
        "echo $[1] @",
        'echo "$[1]" @',
        "echo $$'\\' @",
        "echo $${ @",
        'echo "$$(" @',
        "((echo # '\n) ) ' )) @ '",
        "((a)()) @",
        "(( '1' )) @",
        "(($(cat <<E))) @",
        "echo $(echo)#'\n@",
        "echo $(# '\n) @",
        "[[ x =~ (a #' b\n) @",
        "echo $\\\n'\\'' @",
        "echo <\\\n<E\n@",
        "cas\\\ne @",
        "echo >&@",
        "echo >&'a b'@",
        "echo >&a\\ b@",
        "echo >&$(echo a)@",
        "echo a[>&]@",
        "echo >&1@",
        "((1))#@",
        "echo >& \\\n @",
        "echo >&log_@",
        "echo >&1\v@",
        "echo >&1\u00a0@",
        "echo <& x@",
    ],
)
def test_unsure(line: str) -> None:
    """What is read by rules that are not followed here makes what comes behind it unsure."""
    assert place(line) is Place.UNSURE


@pytest.mark.parametrize(
    "line",
    [
        'echo a\\ #b "\n{line} "',
        'echo a\\;#b "\n{line} "',
        'echo a\\\n#b "\n{line} "',
        'echo $(echo)#b "\n{line} "',
        'echo `: $( ` ) ` " ` {line} ` "`',
        "if true; then {line}; fi",
        "case x in a) :;; {line}) :;; esac",
        "cat <<{line}\nx\nE\n",
    ],
)
def test_lines_that_were_or_could_have_been_mistaken(line: str) -> None:
    """Each is refused, or no value is run in it."""
    assert _ran([line]) == []
