"""What an OpenSSH client configuration says of a host, where that is plain to see.

Rules: pure. Only the simplest forms of ssh_config(5) are understood: ``Host`` with names and
patterns, and the keywords that Allot obeys, with values that have no quotes, tokens or variables.
Where anything else might matter nothing is said, and OpenSSH must be asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_PLAIN = re.compile(r"[\t -~]*")
_LINE = re.compile(r"([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*)")
_PATTERNS = re.compile(r"!?[A-Za-z0-9._*?-]+(?:\s+!?[A-Za-z0-9._*?-]+)*")
_NAME = r"(?!(?:.*\.)?0x)[a-z0-9._-]*[a-z][a-z0-9._-]*"  # 0x7f.1 is an address
_ADDRESS = r"(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})"
_HOST = re.compile(f"{_NAME}|{_ADDRESS}")
_PATH = r"[A-Za-z0-9/._+@-]+"
_SECONDS = re.compile(r"\d{1,6}")
_KEY = re.compile(rf"(?:~/)?{_PATH}")
# OpenSSH puts the home into these, whatever $HOME says; those of keys it leaves as they are.
_PATHS = re.compile(rf"{_PATH}(?:[ \t]+{_PATH})*")
_WILD = re.compile("[*?]")
_OBEYED = {
    "hostname": _HOST,
    "port": re.compile(r"[1-9]\d{0,3}|[1-5]\d{4}"),
    "user": re.compile(r"[A-Za-z0-9._-]+"),
    "identityfile": _KEY,
    "certificatefile": _KEY,
    "identitiesonly": re.compile("yes|no"),
    "stricthostkeychecking": re.compile("yes|no|ask|accept-new"),
    "hostkeyalias": re.compile(_NAME),
    "userknownhostsfile": _PATHS,
    "globalknownhostsfile": _PATHS,
    "connecttimeout": _SECONDS,
    "serveraliveinterval": _SECONDS,
    "proxyjump": re.compile(r"(?:[A-Za-z0-9._-]+@)?[a-z0-9._-]+(?::[1-9]\d{0,3})?"),
}
_LISTS = {"identityfile", "certificatefile"}
# What neither says where and how to log in, nor decides on what does. Whatever else there is, or
# will be, may: OpenSSH is asked then.
_NO_MATTER = """
    addkeystoagent addressfamily bindaddress bindinterface canonicalizefallbacklocal
    canonicalizemaxdots casignaturealgorithms channeltimeout checkhostip ciphers
    clearallforwardings compression connectionattempts controlmaster controlpath controlpersist
    dynamicforward enableescapecommandline escapechar exitonforwardfailure fingerprinthash
    forkafterauthentication forwardagent forwardx11 forwardx11timeout forwardx11trusted
    gatewayports gssapiauthentication gssapidelegatecredentials hashknownhosts
    hostbasedacceptedalgorithms hostbasedauthentication hostkeyalgorithms ipqos
    kbdinteractiveauthentication kbdinteractivedevices kexalgorithms localcommand localforward
    loglevel logverbose macs numberofpasswordprompts obscurekeystroketiming
    passwordauthentication permitlocalcommand permitremoteopen preferredauthentications
    pubkeyacceptedalgorithms pubkeyauthentication rekeylimit remotecommand remoteforward
    requesttty requiredrsasize revokedhostkeys sendenv serveralivecountmax sessiontype setenv
    stdinnull streamlocalbindmask streamlocalbindunlink syslogfacility tcpkeepalive tunnel
    tunneldevice updatehostkeys verifyhostkeydns visualhostkey xauthlocation
"""
_ELSEWHERE = frozenset(_NO_MATTER.split())


class Block:
    """Lines of a configuration, and the hosts they are for.

    Attributes:
        names: Hosts that it names.
        lines: Keywords in lower case, and values.
    """

    def __init__(self, patterns: str) -> None:
        """Begin a block without lines.

        Args:
            patterns: What follows ``Host``.
        """
        self.lines: list[tuple[str, str]] = []
        words = patterns.split()
        wanted = [word for word in words if not word.startswith("!")]
        self.names = {word for word in wanted if not _WILD.search(word)}
        self._globs = [_glob(word) for word in wanted if _WILD.search(word)]
        self._excluded = [_glob(word[1:]) for word in words if word.startswith("!")]

    @property
    def has_patterns(self) -> bool:
        """Whether it may be for hosts that it does not name."""
        return bool(self._globs)

    def applies_to(self, host: str) -> bool:
        """Whether it is for a host: a pattern matches, and none that begins with ``!``."""
        if host not in self.names and not any(one.fullmatch(host) for one in self._globs):
            return False
        return not any(one.fullmatch(host) for one in self._excluded)


def parse_plain(text: str) -> list[Block] | None:
    """Read a configuration file; None where its parts cannot be told apart beyond doubt."""
    blocks = [Block("*")]
    # OpenSSH has no other ends of lines and white space than these.
    for line in [line.strip(" \t\r") for line in text.split("\n")]:
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None or not _PLAIN.fullmatch(line):
            return None
        keyword, value = found[1].lower(), found[2]
        if keyword in ("match", "include"):
            return None
        if keyword != "host":
            blocks[-1].lines.append((keyword, value))
        elif _PATTERNS.fullmatch(value):
            blocks.append(Block(value))
        else:
            return None
    return blocks


class PlainConfig:
    """Blocks in the order in which OpenSSH reads them; those for a host are found at once.

    With a room full of nodes each has a block, and all of them are looked up.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        """Take the blocks of one or more files."""
        self._blocks = blocks
        self._by_name: dict[str, list[int]] = {}
        self._patterns = [at for at, block in enumerate(blocks) if block.has_patterns]
        for at, block in enumerate(blocks):
            for name in block.names:
                self._by_name.setdefault(name, []).append(at)

    def look_up(self, host: str) -> dict[str, list[str]] | None:
        """What is set for a host, by lower-case keyword; of a single value the first one counts.

        Returns:
            Only what is set, always with ``hostname``; None where it cannot be told.
        """
        found: dict[str, list[str]] = {}
        for keyword, value in self._lines(host):
            if keyword in _ELSEWHERE:
                continue
            form = _OBEYED.get(keyword)
            if form is None or not _is_plain(form, value):
                return None
            if keyword in _LISTS:
                found[keyword] = list(dict.fromkeys([*found.get(keyword, ()), value]))
            else:
                found.setdefault(keyword, [value])
        found = {"hostname": [host], **found}
        jump = found.get("proxyjump", [""])[0].rpartition("@")[2].partition(":")[0]
        # Whoever jumps through itself is told so by OpenSSH.
        is_loop = jump in (host, found["hostname"][0])
        return None if is_loop or not _HOST.fullmatch(host) else found

    def _lines(self, host: str) -> Iterator[tuple[str, str]]:
        for at in sorted({*self._by_name.get(host, ()), *self._patterns}):
            if self._blocks[at].applies_to(host):
                yield from self._blocks[at].lines


def _is_plain(form: re.Pattern[str], value: str) -> bool:
    return form.fullmatch(value) is not None and "none" not in value.lower().split()


def _glob(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped)
