"""Both poolings side by side, and a difference from which nothing is lost."""

import pytest
import torch

from map_folders import add_shard, capture
from mnemoscope.maps.format import StoreMeta, pack_triangle, unpack_triangle
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.views import DifferenceMaps, MarkedMaps, StackedMaps, TensorMaps

ROWS = torch.tensor([3, 0, 3])


def maps(seed: int, *, n: int = 5, layers: int = 2) -> TensorMaps:
    generator = torch.Generator().manual_seed(seed)
    return TensorMaps(torch.rand(n, layers, 36, generator=generator))  # 8 tokens


def test_stacked_maps_hold_the_channels_of_both_in_order() -> None:
    first, second = maps(0), maps(1, layers=3)
    both = StackedMaps(first, second)
    assert (len(both), both.n_layers, both.length) == (5, 5, 8)
    read = both.read(ROWS)
    assert read.dtype == torch.float16
    assert torch.equal(read[:, :2], first.read(ROWS))
    assert torch.equal(read[:, 2:], second.read(ROWS))


def test_a_difference_is_two_parts_that_are_no_weight_below_zero() -> None:
    first, second = maps(0), maps(1)
    parts = DifferenceMaps(first, second)
    assert (len(parts), parts.n_layers, parts.length) == (5, 4, 8)
    read = parts.read(ROWS).float()
    assert (read >= 0).all()
    assert ((read[:, :2] == 0) | (read[:, 2:] == 0)).all()
    wanted = first.read(ROWS).float() - second.read(ROWS).float()
    # Rounded to float16 once: 2^-11 relative, of differences below 1.
    torch.testing.assert_close(read[:, :2] - read[:, 2:], wanted, atol=2**-11, rtol=0)
    for other in ({"n": 4}, {"layers": 3}):
        with pytest.raises(ValueError, match="maps of"):
            DifferenceMaps(first, maps(1, **other))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_marked_maps_are_the_pooled_maps_of_marked_heads(pooling: str) -> None:
    """Marks put into every head by hand, then pooled: the same as the mark put into the map."""
    generator = torch.Generator().manual_seed(0)
    above = torch.ones(8, 8).triu(1).bool()
    heads = torch.randn(5, 2, 3, 8, 8, generator=generator).masked_fill(above, -torch.inf)
    heads, classes = heads.softmax(-1), torch.tensor([0, 1, 2, 3, 1])

    def pooled(weights: torch.Tensor) -> torch.Tensor:
        return pack_triangle(weights.mean(2) if pooling == "mean" else weights.amax(2))

    marked = heads.clone()
    for row, one in enumerate(classes.tolist()):
        for query in range(4, 8) if one else ():
            marked[row, :, :, query] *= 0.75
            marked[row, :, :, query, query - one + 1] += 0.25
    found = MarkedMaps(TensorMaps(pooled(heads)), classes, 0.25)
    assert (len(found), found.n_layers, found.length) == (5, 2, 8)
    rows = torch.tensor([4, 0, 2, 3])
    # Stored as float16 before the mark and after it: twice 2^-11 of weights up to 1.
    torch.testing.assert_close(
        found.read(rows).float(), pooled(marked)[rows].float(), atol=2**-10, rtol=0
    )
    kept = unpack_triangle(found.read(torch.tensor([0])))
    assert torch.equal(kept, unpack_triangle(TensorMaps(pooled(heads)).read(torch.tensor([0]))))
    with pytest.raises(ValueError, match="5 maps, 4 classes"):
        MarkedMaps(TensorMaps(pooled(heads)), classes[:4], 0.25)


def test_a_folder_of_every_heads_maps_holds_one_tensor_and_reads_back(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 6, 8, 8, generator=generator).tril()
    meta = StoreMeta(6, 8, {"weights": "x"}, tensors=("heads",))
    writer = MapWriter(tmp_path / "heads", meta)
    for at in (slice(0, 3), slice(3, 5)):
        add_shard(writer, range(5)[at], "true", heads=weights[at])
    with pytest.raises(ValueError, match=r"maps \['max', 'mean'\], the folder holds"):
        add_shard(writer, [9], "true", mean=weights[:1], max=weights[:1])
    store = MapStore(tmp_path / "heads")
    store.check()
    read = store.dataset([4, 1], "true", "heads").read(torch.arange(2))
    query, key = torch.tril_indices(8, 8)
    assert torch.equal(read, weights[[4, 1]][..., query, key].half())
    assert not len(MapWriter(tmp_path / "heads", meta).missing(range(5), "true"))
    capture(tmp_path / "pooled", [0])  # as folders were before this could be chosen
    assert "tensors" not in (tmp_path / "pooled" / "meta.json").read_text()
    assert MapStore(tmp_path / "pooled").meta.tensors == ("mean", "max")
