"""Capture and knockout are exact on every family that shows its attention; others are refused.

`MNEMOSCOPE_WRITE_DOCS=1 pytest tests/lm/test_families.py -m slow` writes `docs/families.md`.
"""

import os
import re
from pathlib import Path

import pytest
import torch
import transformers
from family_survey import Finding, examine, largest_difference
from tiny_families import make_model, named
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mnemoscope.lm import attention
from mnemoscope.lm.attention import HeadPool
from mnemoscope.lm.model import wrap_model

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
NAMED = (
    "gpt_neox", "gpt2", "gptj", "opt", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2",
    "gemma3_text", "phi", "phi3", "olmo2", "stablelm", "cohere", "gpt_oss", "bloom", "falcon",
    "mpt", "gpt_neo", "gemma", "granite", "olmoe", "starcoder2", "gpt_bigcode", "codegen",
    "smollm3", "qwen3_moe", "deepseek_v3",
)  # fmt: skip
OF_EACH_ROUNDING = {"gpt_neox", "gemma2", "gpt_oss", "bloom", "mpt", "deepseek_v3"}
WITHOUT_ATTENTION = ("mamba", "rwkv", "xlstm", "falcon_mamba")
_HEAD = """# Families of models

For which families of models are capture and knockout exact? A slow test asks each one and writes
this page:

```bash
MNEMOSCOPE_WRITE_DOCS=1 pytest tests/lm/test_families.py -m slow
```

Capture pools the attention weights inside the model's own code. Here is every family that the
installed transformers ({version}) knows as a causal language model: a tiny random model of it was
built, its maps were captured, and they were compared with the same model's `output_attentions`,
pooled, in float32. *Exact* means that no number differs. Route `interface` runs our attention
function inside the family's own, `hooks` reads what its eager code returns. Knockout is *exact*
where cutting no edge changes no logit (and cutting a third of them does).

{n_exact} of {n} families are exact. {n_refused} end in a one-line error, whose reason
stands in the table. {n_unbuilt} were not tried: the survey's settings build no tiny model of
them (multimodal wrappers, fixed sizes, missing packages). Knockout is exact
on {n_cut} of the {n_exact}.

In BLOOM, MPT and the kin of BERT, attention or MLP add the residual stream themselves. Where their
[activations](graft.md#activations) are replaced, these are of the last projection, without that
stream.

Hybrid models are captured and grafted only with attention in every layer. The survey's `lfm2` has
it; LFM2 with layers of convolutions is refused. `falcon_h1` has attention beside each Mamba block.
Scans and audits need no maps. They take hybrid models too, and read a sequence again where other
models keep its keys and values.

**Exact, capture and knockout, by `interface`**: {interface}.

**Exact, capture and knockout, by `hooks`**: {hooks}.

## The others

| family | route | capture | knockout | note |
|---|---|---|---|---|
"""


@pytest.mark.parametrize("name", named(NAMED))
def test_maps_are_the_models_own_attention_pooled_and_cutting_nothing_changes_nothing(name):
    found = examine(name)
    assert (found.verdict, found.knockout) == ("exact", "exact")


@pytest.mark.parametrize("name", named(NAMED))
@pytest.mark.parametrize("block", [40, 900])
def test_blocks_of_queries_give_the_same_maps_in_every_family(monkeypatch, name, block):
    """Blocks of 16 queries of one sequence, and of 32 of several; windows, caps and sinks too."""
    lm, outputs = wrap_model(make_model(name), name=name), []
    attend = HeadPool._attend_in_blocks

    def noted(*arguments):
        outputs.append(attend(*arguments))
        return outputs[-1]

    monkeypatch.setattr(HeadPool, "_attend_in_blocks", noted)
    monkeypatch.setattr(attention, "WHOLE_QUERIES", 8)
    monkeypatch.setattr(attention, "BLOCK_BYTES", {"cpu": 4 * block * 16, "": 0})
    assert largest_difference(lm) < 1e-6
    assert len(outputs) == (6 if lm.attention_route == "interface" else 0)
    assert all(one is not None for one in outputs)


@pytest.mark.parametrize("name", named(NAMED, OF_EACH_ROUNDING))
def test_in_bfloat16_only_the_pooling_rounds(name):
    assert largest_difference(wrap_model(make_model(name, dtype=torch.bfloat16), name=name)) == 0.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "0 of its 3 layers") for name in WITHOUT_ATTENTION),
        ("diffllama", "6 maps of its 3 layers"),
    ],
)
def test_a_family_without_one_map_of_attention_a_layer_is_refused(name, words):
    finding = examine(name)
    assert finding.verdict == "refused"
    assert words in finding.note


def test_the_page_says_what_the_tests_found_of_the_installed_families_and_counts_them_right():
    page = PAGE.read_text(encoding="utf-8")
    exact, others = _said(page)
    assert set(NAMED) <= set(exact)
    assert {others[name] for name in WITHOUT_ATTENTION} == {("refused", "-")}
    verdicts = [capture for capture, _ in others.values()]
    shown = re.search(r"(\d+) of (\d+) families are exact. (\d+) end .*\. (\d+) were", page, re.S)
    n = len(exact) + len(others)
    counted = [len(exact), n, *map(verdicts.count, ("refused", "not built"))]
    assert [int(one) for one in shown.groups()] == counted
    if f"({transformers.__version__})" in page:
        assert sorted([*exact, *others]) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.slow
def test_the_page_lists_every_family_as_it_is_found():
    page = _page([examine(name) for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)])
    if os.environ.get("MNEMOSCOPE_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    if f"({transformers.__version__})" in PAGE.read_text(encoding="utf-8"):
        assert PAGE.read_text(encoding="utf-8") == page
    assert "| differs |" not in page


def _page(findings: list[Finding]) -> str:
    count = [one.verdict for one in findings].count
    exact = [one for one in findings if (one.verdict, one.knockout) == ("exact", "exact")]
    routes = {
        name: ", ".join(one.family for one in exact if one.route == name)
        for name in ("interface", "hooks")
    }
    head = _HEAD.format(
        version=transformers.__version__,
        n=len(findings),
        n_exact=count("exact"),
        n_cut=[one.knockout for one in findings].count("exact"),
        n_refused=count("refused"),
        n_unbuilt=count("not built"),
        **routes,
    )
    return head + "".join(
        f"| {one.family} | {one.route} | {one.verdict} | {one.knockout} | {one.note} |\n"
        for one in findings
        if one not in exact
    )


def _said(page: str) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Families that the page calls exact; capture and knockout of each of the others."""
    head, _, table = page.partition("|---|---|---|---|---|\n")
    names = ", ".join(re.findall(r"^\*\*Exact.*\*\*: (.*)\.$", head, re.M))
    cells = [line.removeprefix("| ").split(" | ") for line in table.splitlines()]
    return names.split(", "), {family: (capture, cut) for family, _, capture, cut, *_ in cells}
