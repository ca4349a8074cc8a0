"""Makes an SVG picture of a terminal: colours, bars and all.

Run a job in tmux, then, while its bars are there:

    tmux capture-pane -e -p | python example/make_bars_svg.py > example/bars.svg
"""

from __future__ import annotations

import re
import sys
from html import escape

CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, MARGIN = 8.4, 18, 14, 16
BACKGROUND, FOREGROUND = "#1c1f26", "#d8dee9"
# Black, red, green, yellow, blue, magenta, cyan, white; as SGR 30 to 37.
COLOURS = ["#4c566a", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d8dee9"]
BLOCKS = " ▏▎▍▌▋▊▉█"
SGR = re.compile(r"\x1b\[([0-9;]*)m")
OTHER_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-ln-~]|[()].|\].*?(\x07|\x1b\\))|[\x0e\x0f]")


def to_svg(screen: str) -> str:
    """Draw a captured screen.

    Args:
        screen: Lines as ``tmux capture-pane -e -p`` writes them, with SGR colours.

    Returns:
        A whole SVG document; its text can be selected and needs no font of its own.
    """
    lines = OTHER_ESCAPES.sub("", screen).rstrip().splitlines()
    columns = max((len(SGR.sub("", line)) for line in lines), default=0)
    width = 2 * MARGIN + columns * CELL_WIDTH
    height = 2 * MARGIN + len(lines) * CELL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}" role="img">',
        "<title>Progress bars of a job</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        f'<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"'
        f' font-size="{FONT_SIZE}">',
    ]
    colour, faint = FOREGROUND, False
    for row, line in enumerate(lines):
        column = 0
        for position, piece in enumerate(SGR.split(line)):
            if position % 2:
                colour, faint = apply_codes(piece, colour, faint)
                continue
            parts += draw(piece, column, row, f'fill="{colour}"' + ' opacity="0.55"' * faint)
            column += len(piece)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def apply_codes(codes: str, colour: str, faint: bool) -> tuple[str, bool]:
    """The colour, and whether it is faint, after an SGR sequence; what else it says is left out."""
    for code in map(int, (code or "0" for code in codes.split(";"))):
        if code == 0:
            colour, faint = FOREGROUND, False
        elif code in (2, 22):
            faint = code == 2
        elif code == 39:
            colour = FOREGROUND
        elif 30 <= code <= 37 or 90 <= code <= 97:
            colour = COLOURS[code % 10]
    return colour, faint


def draw(text: str, column: int, row: int, style: str) -> list[str]:
    """One piece of a line: runs of blocks as rectangles without gaps, the rest as text."""
    parts = []
    for match in re.finditer(r"█*[▏▎▍▌▋▊▉]|█+|[^▏▎▍▌▋▊▉█]+", text):
        run = match[0]
        x = MARGIN + (column + match.start()) * CELL_WIDTH
        y = MARGIN + row * CELL_HEIGHT
        if run[0] in BLOCKS[1:]:
            eighths = sum(map(BLOCKS.index, run))
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 2}" width="{eighths / 8 * CELL_WIDTH:.1f}"'
                f' height="{CELL_HEIGHT - 4}" {style}/>'
            )
            continue
        # Each group of words is held to its columns, whatever font the reader has.
        for words in re.finditer(r"\S+( \S+)*", run):
            parts.append(
                f'<text x="{x + words.start() * CELL_WIDTH:.1f}" y="{y + FONT_SIZE - 1}"'
                f' textLength="{len(words[0]) * CELL_WIDTH:.1f}" {style}>{escape(words[0])}</text>'
            )
    return parts


if __name__ == "__main__":
    sys.stdout.write(to_svg(sys.stdin.read()))
