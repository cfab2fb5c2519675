"""Pages of figures and tables that need no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go

from glm_data.files import write_atomically

__all__ = ["html_figure", "html_list", "html_table", "write_page"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1280px; margin: 2em auto;
  padding: 0 1em; }}
h1 {{ font-size: 1.4em; }} h2 {{ font-size: 1.1em; margin: 1.6em 0 .4em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3em .9em .3em 0; text-align: right; border-bottom: 1px solid #e5e5e5; }}
.text {{ text-align: left; }}
tr.best td {{ font-weight: 600; background: #f4f7fb; }} tr.best td:first-child::after {{ content: " ★"; }}
.remarks {{ color: #8a4b00; }} .note {{ color: #666; max-width: 62em; }}
.switch {{ display: flex; flex-wrap: wrap; gap: .5em 1.4em; align-items: center; margin: .6em 0; }}
.switch .word {{ color: #666; margin-right: .5em; }} .switch button {{ font: inherit; font-size: 14px; cursor: pointer;
  padding: .2em .7em; border: 1px solid #bbb; background: #fff; color: #222; margin-left: -1px; }}
.switch button[aria-pressed="true"] {{ background: #222; color: #fff; }} .switch button:disabled {{ color: #bbb; }}
.switch button.mixer, .switch button.mixer[aria-pressed="true"] {{ border: 0; background: none; color: #222;
  padding: 0; margin: 0; }} .switch button.mixer::before {{ content: "●"; color: var(--own); margin-right: .35em; }}
.switch button.mixer[aria-pressed="false"] {{ color: #999; text-decoration: line-through; }}
</style></head><body><h1>{title}</h1>{remarks}{content}</body></html>
"""


def html_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = (0,), best: int | None = None
) -> str:
    """Texts as a table; columns of `words` begin at the left, numbers end at the right. The row `best` is marked."""

    def line(kind: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=text' if column in words else ''}>{escape(cell)}</{kind}>"
            for column, cell in enumerate(cells)
        )

    body = (f"<tr{' class=best' if number == best else ''}>{line('td', row)}</tr>" for number, row in enumerate(rows))
    return f"<table><tr>{line('th', headings)}</tr>{''.join(body)}</table>"


def html_list(texts: Iterable[str], kind: Literal["remarks", "said"] = "remarks") -> str:
    """Texts as a list; nothing if there are none."""
    listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{kind}">{listed}</ul>' if listed else ""


def html_figure(figure: go.Figure) -> str:
    """A figure with all that it needs to be looked at; one to a page."""
    return str(figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False}))


def write_page(
    path: Path,
    title: str,
    remarks: Iterable[str],
    content: Iterable[str],
) -> None:
    """A page of pieces of HTML below a title and remarks, which are texts. Raises OSError."""
    page = _PAGE.format(title=escape(title), remarks=html_list(remarks), content="".join(content))
    write_atomically(path, page)
