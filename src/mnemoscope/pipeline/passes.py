"""What the stages that ask the language model would take: continue and capture."""

from mnemoscope.maps.shape import map_bytes
from mnemoscope.study.cost import LANGUAGE_MODEL, Cost, Counts, ModelShape, Row, bounds, megabytes
from mnemoscope.study.settings import StudySettings

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per weight; `auto` counts as 2."""
_SCANNED_AT_ONCE = 4  # suffix tokens that the scan checks first


def continue_cost(settings: StudySettings, counts: Counts) -> Cost:
    """Forward passes of stage `continue`; the first step of a scan leaves the memorized ones."""
    cost, length = Cost(settings, counts), settings.sequences.length
    prefix = settings.sequences.n_prefix
    n_suffix = length - prefix
    if settings.continue_.scan:
        first = prefix + min(_SCANNED_AT_ONCE, n_suffix)
        cost.add_passes("scan, first step", counts.n_sequences, first - 1)
        cost.add_passes("scan, the rest", counts.n_memorized, length - first)
    else:
        cost.add_passes("continuation", counts.n_sequences, length - 1, steps=n_suffix)
    n_checked = min(settings.continue_.check_rows, counts.n_sequences)
    name = "a draw, to compare scan and decoding"
    cost.add_passes(name, n_checked, length - 1, steps=n_suffix)
    return cost


def capture_cost(settings: StudySettings, counts: Counts) -> Cost:
    """Forward passes, bytes on disk and memory of stage `capture`."""
    cost, need, length = Cost(settings, counts), counts.need, settings.sequences.length
    n_suffix = length - settings.sequences.n_prefix
    n_theirs, n_stores = counts.n_unshared, 1
    captured = bounds(f"{need.n_least:,}", f"{need.n_maps:,}")
    cost.rows.append(Row("sequences captured", captured, f"{n_theirs:,}"))
    if settings.continue_.scan:
        cost.add_passes("continuation of Non-Memo", need.n_own, length - 1, steps=n_suffix)
    cost.add_passes("capture", need.n_maps, length, published=f"{n_theirs:,} (eager)")
    if settings.benchmark.controls:
        reference = counts.reference
        cost.add_passes("log-probabilities", need.n_texts, length, is_control=True)
        if settings.reference is not None:
            n_stores, name = 2, "capture of the reference"
            cost.add_passes(name, need.n_maps, length, is_control=True, shape=reference)
    if (shape := counts.shape) is None:
        return cost
    per_head = settings.capture.per_head
    each = map_bytes(shape.n_layers, length, n_tensors=2 + (shape.n_heads if per_head else 0))
    cost.stored = need.n_least * each * n_stores, need.n_maps * each * n_stores
    batch_size, dtype = settings.planned_rows, settings.model.dtype
    weights, batch = memory_bytes(
        shape, dtype=dtype, batch_size=batch_size, length=length, suffix=n_suffix
    )
    cost.memory = weights + batch
    theirs = shape.n_layers * shape.n_heads * length * length * 2  # all heads, float16
    all_theirs = megabytes(n_theirs * theirs)
    kept = f"{megabytes(each)}, {'mean, max and all heads' if per_head else 'pooled'}"
    memory = f"{megabytes(weights)} + {megabytes(batch)}"
    cost.rows += [
        Row("attention, a sequence", kept, f"{megabytes(theirs)}, all heads"),
        Row("attention, stored", bounds(*map(megabytes, cost.stored)), all_theirs),
        Row("memory: weights + a batch", memory, "the same weights"),
    ]
    cost.published[LANGUAGE_MODEL] = n_theirs * length * cost.seconds_a_token(shape)
    cost.published_notes = [
        f"Published: {counts.n_jobs} jobs, each captures for itself: sequences × {shape.n_layers} "
        f"layers × {shape.n_heads} heads × {length} × {length} × 2 B = {all_theirs}. The paper "
        "has three models: 180 jobs of taxonomies are 35.5 TB and 81 of ρ 13.9 TB, where its "
        "authors say 30 and 15. Its labels come with the data set."
    ]
    cost.notes = [
        f"Memory: weights × bytes, and the larger of capture and scan at batch size {batch_size}."
    ]
    return cost


def graft_cost(settings: StudySettings, counts: Counts, n_scans: int, n_each: int) -> Cost:
    """Forward passes of stage `graft`: `n_scans` of `n_each` sequences."""
    cost = Cost(settings, counts)
    cost.add_passes("grafts and random changes", n_scans * n_each, settings.sequences.length - 1)
    return cost


def knockout_cost(settings: StudySettings, counts: Counts, n_continued: int) -> Cost:
    """Forward passes of stage `knockout`: one of each sequence; what breaks is decoded besides."""
    cost = Cost(settings, counts)
    cost.add_passes("sequences with edges cut", n_continued, settings.sequences.length - 1)
    return cost


def memory_bytes(
    shape: ModelShape, *, dtype: str, batch_size: int, length: int, suffix: int
) -> tuple[int, int]:
    """Bytes on the device: the weights, and the larger of a batch's capture and scan.

    Capture: pooled maps of all layers (mean and max, float32, twice while they are stacked), one
    layer's weights of all heads (dtype and float32) and its hidden states (about 14 × hidden per
    token). Scan: keys and values of all layers, the logits of the suffix (dtype and float32), and
    the hidden states.
    """
    size = BYTES.get(dtype, 2)
    rows = batch_size * length
    states = 14 * rows * shape.hidden * size
    maps = 2 * 2 * 4 * batch_size * shape.n_layers * length * length
    weights = batch_size * shape.n_heads * length * length * (size + 4)
    kept = 2 * shape.n_layers * rows * shape.hidden * size
    logits = batch_size * suffix * shape.vocabulary * (size + 4)
    return shape.n_parameters * size, states + max(maps + weights, kept + logits)
