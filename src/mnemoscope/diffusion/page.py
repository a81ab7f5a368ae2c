"""The page of a finished run: verdicts, figures beside the control's, pictures with their heat."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.analysis.figures import Chart, Series, plain
from mnemoscope.audits.page import environment
from mnemoscope.diffusion.measures import (
    MEASURES,
    MEMORIZED,
    NOT_SHOWN,
    UNDECIDED,
    UNREAD,
    VERDICTS,
    heat_of,
)
from mnemoscope.report.charts import PHONE, chart_view
from mnemoscope.report.style import LIGHT, fill
from mnemoscope.version import __version__

_AGAIN = ("mitigated_norm", "mitigated_similarity", "steps_without_prompt")
_SHOWN = 40  # prompts of a verdict that the page shows
_THUMB = 256  # pixels of a picture on the page, at most
MEANINGS = {
    MEMORIZED: "the model goes further beyond its control than at unread prompts",
    UNDECIDED: "there is no control, or there are too few unread prompts",
    NOT_SHOWN: "unread prompts go as far",
}


def png_of(pixels: np.ndarray) -> bytes:
    """Write pixels, uint8 (rows, columns, 3 or 4), as a PNG."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="PNG")
    return held.getvalue()


def _thumb(png: bytes | None) -> str | None:
    """A picture as an address that holds it, no larger than the page shows it."""
    if png is None:
        return None
    from PIL import Image

    image, kind = Image.open(io.BytesIO(png)), "png"
    if max(image.size) > _THUMB and image.mode == "RGB":
        image.thumbnail((_THUMB, _THUMB))
        held, kind = io.BytesIO(), "jpeg"
        image.save(held, format=kind, quality=85)
        png = held.getvalue()
    return f"data:image/{kind};base64," + base64.b64encode(png).decode("ascii")


def _ink(heat: np.ndarray, most: float) -> str | None:
    """A heat map (height, width) as ink over a picture, the denser the larger."""
    colour = bytes.fromhex(LIGHT["recall"][1:])
    pixels = np.empty((*heat.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.frombuffer(colour, dtype=np.uint8)
    pixels[..., 3] = np.rint(200 * np.clip(heat / (most or 1.0), 0, 1))
    return _thumb(png_of(pixels))


def page_of(table: pl.DataFrame, record: Mapping[str, Any]) -> str:
    """The page of a finished run: verdicts, figures beside the control's, pictures with heat."""
    own = table.filter(pl.col("verdict").is_not_null())
    groups, size = [], tuple(record["latent"][1:])
    shown = {}
    for verdict in VERDICTS:
        some = own.filter(verdict=verdict)
        if some.is_empty():
            continue
        shown[verdict] = some.sort("beyond", "norm", descending=True, nulls_last=True).head(_SHOWN)
        groups.append((verdict, some.height))
    heats = {
        row["row"]: heat_of(row).reshape(size)
        for some in shown.values()
        for row in some.iter_rows(named=True)
    }
    most = max((float(one.max()) for one in heats.values()), default=1.0)
    cards = {
        verdict: [_card(row, heats[row["row"]], most) for row in some.iter_rows(named=True)]
        for verdict, some in shown.items()
    }
    template = environment("mnemoscope.diffusion")
    template.globals |= {"chart_view": chart_view, "phone": PHONE}
    return fill(
        template.get_template("images.html.j2"),
        record=record,
        version=__version__,
        groups=groups,
        cards=cards,
        meanings=MEANINGS,
        chart=None
        if record["reference"] is None
        else chart_of(table, record["settings"]["measure"]),
        measures=MEASURES,
    )


def _card(row: Mapping[str, Any], heat: np.ndarray, most: float) -> Mapping[str, Any]:
    pictures = {
        "picture": _thumb(row["picture"]),
        "control_picture": _thumb(row["control_picture"]),
        "mitigated_picture": _thumb(row.get("mitigated_picture")),
        "heat": _ink(heat, most),
    }
    kept = {name: value for name, value in row.items() if not isinstance(value, bytes | list)}
    return {**dict.fromkeys(_AGAIN), **kept, **pictures}


def chart_of(table: pl.DataFrame, measure: str) -> Chart:
    """The figure of each prompt that the verdict is drawn from: of the model over the control."""
    series, name = [], MEASURES[measure]
    for group in (*VERDICTS, UNREAD):
        some = table.filter(pl.col("label" if group == UNREAD else "verdict") == group)
        if some.height:
            x, y = plain(some[f"control_{measure}"]), plain(some[measure])
            series.append(Series(name=group, x=x, y=y))
    return Chart(
        title=f"{name[0].upper()}{name[1:]}: the model over its control, one point a prompt",
        series=tuple(series),
        form="points",
        x_label="control",
        y_label="model",
        log_x=measure != "flipd",
        log_y=measure != "flipd",
    )
