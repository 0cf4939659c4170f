# SPDX-License-Identifier: Apache-2.0
"""report.py - what was measured as lines, as JSON, as a Markdown table and as a picture."""
import json
import math
import statistics


class Row:
    """Medians of one figure: ours, QEMU's, the host's; None where there is none."""

    def __init__(self, what, unit, ours, theirs=(), native=()):
        self.what, self.unit, self.runs = what, unit, len(ours)
        self.ours = statistics.median(ours)
        self.theirs = statistics.median(theirs) if theirs else None
        self.native = statistics.median(native) if native else None

    @property
    def to_qemu(self):
        return self.ours / self.theirs if self.theirs else None

    @property
    def to_native(self):
        return self.ours / self.native if self.native else None

    def data(self):
        return {"what": self.what, "unit": self.unit, "runs": self.runs, "sika": self.ours,
                "qemu": self.theirs, "native": self.native}


def _cell(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


COLUMNS = ["what", "unit", "Sika", "QEMU", "native", "of QEMU", "of native", "runs"]


def _cells(r):
    return [r.what, r.unit, _cell(r.ours), _cell(r.theirs), _cell(r.native), _cell(r.to_qemu),
            _cell(r.to_native), str(r.runs)]


def text(rows):
    table = [COLUMNS] + [_cells(r) for r in rows]
    width = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(c.ljust(w) if i < 2 else c.rjust(w)
                               for i, (c, w) in enumerate(zip(line, width))) for line in table)


def markdown(rows):
    lines = [COLUMNS, ["---"] * len(COLUMNS)] + [_cells(r) for r in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def save_json(rows, path):
    with open(path, "w", encoding="utf-8") as f:
        json.dump([r.data() for r in rows], f, indent=1)


# ---- the picture: one line a class, time as a multiple of the host's, on a logarithmic scale ----

WIDTH, LEFT, RIGHT, STEP, TOP = 760, 170, 20, 18, 46


def _x(factor, top):
    factor = min(max(factor, 0.5), top)
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(factor / 0.5) / math.log(top / 0.5)


def svg(rows):
    rows = [r for r in rows if r.native and r.theirs]
    top = max([2.0] + [max(r.to_native, r.theirs / r.native) for r in rows]) * 1.1
    height = TOP + STEP * len(rows) + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
           'font-family="sans-serif" font-size="11">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           f'<text x="{LEFT}" y="16" font-size="13">time as a multiple of the host\'s '
           '(1 is native; less is better)</text>',
           f'<circle cx="{LEFT + 6}" cy="30" r="4" fill="#1f77b4"/><text x="{LEFT + 16}" y="34">'
           'Sika bt</text>',
           f'<circle cx="{LEFT + 86}" cy="30" r="4" fill="#d62728"/><text x="{LEFT + 96}" y="34">'
           'QEMU TCG</text>']
    tick = 1
    while tick <= top:
        x = _x(tick, top)
        out.append(f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{height - 24}" '
                   f'stroke="{"#555" if tick == 1 else "#ddd"}"/>')
        out.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{tick}</text>')
        tick *= 2
    for i, r in enumerate(rows):
        y = TOP + STEP * i + 8
        a, b = _x(r.to_native, top), _x(r.theirs / r.native, top)
        out.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{r.what}</text>')
        out.append(f'<line x1="{a:.1f}" y1="{y}" x2="{b:.1f}" y2="{y}" stroke="#bbb"/>')
        out.append(f'<circle cx="{b:.1f}" cy="{y}" r="4" fill="#d62728"/>')
        out.append(f'<circle cx="{a:.1f}" cy="{y}" r="4" fill="#1f77b4"/>')
    return "\n".join(out) + "\n</svg>\n"
