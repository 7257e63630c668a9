"""The chart of a revenue report: over time what came in, went out and remained, else the largest and the rest.

matplotlib's own state is left alone: a figure is made, drawn into memory and forgotten.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import date, timedelta
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from billing.reports.figures import By, Figures, Report, total
from workers.commands.output import printable, usd

# Okabe and Ito's palette: told apart by colour-blind readers too, and in grey.
REVENUE = "#0072B2"
COST = "#E69F00"
MARGIN = "#111111"
LOSS = "#B3400A"
GREY = "#666666"

LARGEST = 15
"""How many accounts, operations or models have a bar of their own."""
NAME_MAX = 38
BARS_MAX = 92
"""The most bars over time: a quarter has one a day."""
BARS_MIN = 6
DOTS_MAX = 45
TICKS = 12


def draw(found: Report) -> bytes:
    """The chart of a report with at least one row, as PNG."""
    bars = min(len(found.rows), LARGEST + 1)
    height = 6.2 if found.by is By.DAY else 2.6 + 0.42 * bars
    figure = Figure(figsize=(11, height), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    if found.by is By.DAY:
        _over_time(axes, found)
    else:
        _largest(axes, found)
    _title(figure, found)
    _frame(axes)
    file = BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, and the warning about it helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _title(figure: Figure, found: Report) -> None:
    whole = found.total
    share = "" if whole.margin_percent is None else f" ({whole.margin_percent} % of revenue)"
    said = (
        f"revenue {usd(whole.revenue_usd, 2)}   provider cost {usd(whole.cost_usd, 2)}   "
        f"margin {usd(whole.margin_usd, 2)}{share}   {whole.jobs_settled:,} settled jobs"
    )
    span = f"{found.first}" if found.first == found.last else f"{found.first} to {found.last}"
    figure.suptitle(
        f"Revenue by {_unit(found)}, {span} (UTC)\n",
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
        parse_math=False,
    )
    figure.text(0.01, 0.985, f"\n\n{said}", ha="left", va="top", fontsize=11, color=GREY, parse_math=False)


def _frame(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#BBBBBB")
    axes.tick_params(colors="#333333", labelsize=10, length=3)
    axes.set_axisbelow(True)


def _over_time(axes: Axes, found: Report) -> None:
    unit, bars = _in_time(found)
    starts = [day for day, _ in bars]
    revenue, cost, margin = (
        [float(amount) for amount in amounts]
        for amounts in zip(*((each.revenue_usd, each.cost_usd, each.margin_usd) for _, each in bars), strict=True)
    )
    places = range(len(bars))
    axes.bar(places, revenue, width=0.8, color=REVENUE, label="revenue")
    axes.bar(places, cost, width=0.44, color=COST, label="provider cost")
    outline = [withStroke(linewidth=3.6, foreground="white")]
    marker = "o" if len(bars) <= DOTS_MAX else ""
    (line,) = axes.plot(
        places, margin, color=MARGIN, linewidth=1.6, marker=marker, markersize=4.5, label="margin", path_effects=outline
    )
    axes.axhline(0, color=GREY, linewidth=0.8)
    # One bar alone is not drawn as wide as the page.
    spare = max(0.0, (BARS_MIN - len(bars)) / 2)
    axes.set_xlim(-0.6 - spare, len(bars) - 0.4 + spare)
    step = -(-len(bars) // TICKS)
    axes.set_xticks(places[::step], [_dated(starts, number, unit, step) for number in places[::step]])
    axes.yaxis.set_major_formatter(FuncFormatter(_dollars))
    axes.set_ylabel(f"USD a {unit}", fontsize=11)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    handles = [*axes.containers, line]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=10)


def _in_time(found: Report) -> tuple[str, list[tuple[date, Figures]]]:
    """The figures by day, and of longer spans by week (from Monday on) or month; each with its first day."""
    by_day = {row.key: row.figures for row in found.rows if isinstance(row.key, date)}
    first, last = found.first, found.last
    unit = _unit(found)
    if unit == "month":
        # A chart of all time shows no years before the first job.
        first, last = min(by_day), max(by_day)
    bars: dict[date, list[Figures]] = {}
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        bars.setdefault(_start(day, unit), []).append(by_day.get(day, Figures()))
    return unit, [(day, total(several)) for day, several in bars.items()]


def _unit(found: Report) -> str:
    """What one bar stands for: an account, operation or model, or over time a day, week or month."""
    days = (found.last - found.first).days + 1
    if found.by is not By.DAY:
        return str(found.by)
    return "day" if days <= BARS_MAX else "week" if days <= BARS_MAX * 7 else "month"


def _start(day: date, unit: str) -> date:
    if unit == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if unit == "week" else day


def _dated(starts: Sequence[date], number: int, unit: str, step: int) -> str:
    day = starts[number]
    new_year = number == 0 or day.year != starts[number - step].year
    shown = f"{day:%b}" if unit == "month" else f"{day.day} {day:%b}"
    return f"{shown}\n{day:%Y}" if new_year else shown


def _largest(axes: Axes, found: Report) -> None:
    rows = [(_named(found.by, str(row.key), row.name), row.figures) for row in found.rows[:LARGEST]]
    others = [row.figures for row in found.rows[LARGEST:]]
    if others:
        rows.append((f"{len(others)} others", total(others)))
    rows.reverse()
    places = range(len(rows))
    revenue = [float(figures.revenue_usd) for _, figures in rows]
    cost = [float(figures.cost_usd) for _, figures in rows]
    axes.barh(places, revenue, height=0.72, color=REVENUE, label="revenue")
    axes.barh(places, cost, height=0.34, color=COST, label="provider cost")
    axes.set_yticks(places, [name for name, _ in rows], parse_math=False)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    widest = max([*revenue, *cost]) or 1.0
    # Room for the labels to the right of the longest bar.
    axes.set_xlim(0, widest * 1.3)
    for place, (_, figures) in zip(places, rows, strict=True):
        end = float(max(figures.revenue_usd, figures.cost_usd)) + widest * 0.012
        colour = LOSS if figures.margin_usd < 0 else "#333333"
        axes.text(end, place, _told(figures), va="center", fontsize=10, color=colour, parse_math=False)
    axes.xaxis.set_major_formatter(FuncFormatter(_dollars))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("USD", fontsize=11)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=10)


def _told(figures: Figures) -> str:
    earned, paid = (usd(amount, 2 if amount >= 1 else 4) for amount in (figures.revenue_usd, figures.cost_usd))
    if figures.margin_percent is None:
        return f"{earned}, cost {paid}"
    return f"{earned}, margin {figures.margin_percent} %"


def _named(by: By, key: str, name: str) -> str:
    whole = f"{printable(name)} ({key})" if by is By.ACCOUNT else printable(name)
    if len(whole) <= NAME_MAX:
        return whole
    tail = f"… ({key})" if by is By.ACCOUNT else "…"
    return whole[: NAME_MAX - len(tail)].rstrip() + tail


def _dollars(amount: float, _: object) -> str:
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    for unit, name in ((1e9, "bn"), (1e6, "m"), (1e4, "k")):
        if size >= unit:
            divided = size / (1e3 if name == "k" else unit)
            return f"{sign}${divided:,.4g}{name}"
    return f"{sign}${size:,.4g}"
