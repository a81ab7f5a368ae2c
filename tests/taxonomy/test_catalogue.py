"""The catalogue is the published one, and taxonomies come as users ask for them."""

from itertools import product
from pathlib import Path

import polars as pl
import pytest
from taxonomy_tables import OWN_NODES

from mnemoscope.taxonomy import PAPER, PRASHANTH
from mnemoscope.taxonomy.catalogue import (
    catalogue,
    load_taxonomies,
    make_node,
    read_taxonomies,
    rho_name,
    rho_sweep,
)
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.taxonomy.nodes import parse_node
from refusals import refusal

GOLDEN = Path(__file__).parents[1] / "golden" / "published_taxonomies.txt"


def test_catalogue_holds_exactly_the_54_published_names():
    taxonomies = catalogue()
    names = [taxonomy.name for taxonomy in taxonomies]
    assert sorted(names) == GOLDEN.read_text(encoding="utf-8").splitlines()
    assert len(names) == len(set(names)) == 54
    assert all(taxonomy.published_name == taxonomy.name for taxonomy in taxonomies)
    prashanth, paper = load_taxonomies([PRASHANTH, PAPER])
    assert prashanth.published_name == "Non-Memo, Recite[5], Reconstruct, Others"
    assert paper.published_name == "Non-Memo, Guess, Others"


def test_names_words_and_files_are_loaded_in_order_and_once(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"taxonomies:\n  - Non-Memo, Recite[7], Rest\n  - {PAPER}\n")
    loaded = load_taxonomies([PAPER, str(file), "Non-Memo,Guess,Recall", "catalogue"])
    assert [taxonomy.name for taxonomy in loaded[:2]] == [PAPER, "Non-Memo, Recite[7], Rest"]
    assert len(loaded) == 2 + 54


def test_rho_sweep_follows_the_rows_of_the_published_table():
    names = [taxonomy.name for taxonomy in rho_sweep()]
    assert len(names) == len(set(names)) == 27
    assert names[:2] == ["Non-Memo, Guess[0.6-0.6], Recall", "Non-Memo, Guess[0.6-off], Recall"]
    assert names[7] == "Non-Memo, Guess[off-0.5], Recall"
    assert [taxonomy.name for taxonomy in load_taxonomies(["rho"])] == names


def theirs(threshold: str, rouge_l: float, rouge_3: float) -> bool:
    """The published code's rule, from its description: 0.6 both, 1.6 ROUGE-L, 2.6 ROUGE-3."""
    given = float(threshold)
    place = int(given)
    if place == 0:
        return rouge_l >= given or rouge_3 >= given
    return (rouge_l if place == 1 else rouge_3) >= given - place


def test_rho_as_run_compares_as_the_published_arithmetic_does():
    """Scores of halves of 32 tokens, by our formula and in rouge-score's order of operations."""
    shares = [k / 30 for k in range(31)]
    for rouge_3 in (shares, [p and 2 * p * p / (p + p) for p in shares]):
        pairs = list(product([k / 32 for k in range(33)], rouge_3))
        frame = pl.DataFrame(pairs, schema=["rouge_l", "rouge_3"], orient="row").with_columns(
            is_memorized=True, is_incrementing=False, is_repeating=False
        )
        differ = []
        for place, tenth in product(range(3), range(1, 10)):
            uses = {"rouge_l": place < 2, "rouge_3": place != 1}
            as_run, exact = (
                label_sequences(frame, parse_taxonomy(rho_name(tenth / 10, **uses, **mode)))
                for mode in ({"as_run": True}, {})
            )
            wanted = [theirs(f"{place}.{tenth}", *pair) for pair in pairs]
            assert [one != "Recall" for one in as_run] == wanted
            if [one != "Recall" for one in exact] != wanted:
                differ.append((place, tenth))
        assert differ == [(2, 1), (2, 2), (2, 6), (2, 7)]


def test_rho_as_run_stands_for_the_published_rows():
    exact, as_run = load_taxonomies(["rho"]), load_taxonomies(["rho_as_run"])
    assert [one.published_name for one in exact] == [one.published_name for one in as_run]
    renamed = [one.name for one in as_run if "published" in one.name]
    assert len(renamed) == 18
    assert "Non-Memo, Guess[off-0.6-published], Recall" in renamed
    node = parse_node("Guess[off-0.6-published]")
    assert (
        "at least 0.6000000000000001 of the suffix's runs of three tokens stand in" in node.meaning
    )
    for limits in ("0.5-0.6", "off-off"):
        said = refusal(parse_node, f"Guess[{limits}-published]")
        assert f"Write Guess[{limits}], or off for one of the two." in said


def test_unknown_taxonomies_are_refused(tmp_path):
    for threshold in (-0.1, 1.1, float("nan")):
        said = refusal(rho_name, threshold, rouge_l=True, rouge_3=True)
        assert "Choose a threshold in [0, 1]" in said
    for spec, says in (
        (["catalog"], "Did you mean 'catalogue'?"),
        (["roh"], "Did you mean 'rho'?"),
        (["no/such.yaml"], "no such file"),
        ([str(tmp_path / "binary.yaml")], "cannot be read"),
        ([], "no taxonomy is named"),
    ):
        (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
        assert says in refusal(load_taxonomies, spec)
    assert "cannot be read" in refusal(read_taxonomies, tmp_path)


def read(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    return read_taxonomies(file)


def test_own_rules_written_alike_are_one_partition():
    rules = {"Long": "duplicates > 9", "Often": "duplicates  >  9", "Other": "duplicates > 8"}
    own = {name: make_node(name, rule, "often") for name, rule in rules.items()}
    first, second, third = (parse_taxonomy(f"Non-Memo, {name}, Rest", own=own) for name in own)
    assert first.partition_key == second.partition_key != third.partition_key


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("duplicates > 5", [False, True, None]),
        ("NOT duplicates > 5 OR genre = 'code'", [True, False, None]),
        ("genre IN ('code', 'it''s')", [True, False, False]),
        ("genre IS NULL OR duplicates IS NULL", [False, False, True]),
        ("starts_with(genre, 'co') AND length(genre) = 4", [True, False, False]),
        ("CASE WHEN genre = 'code' THEN duplicates > 5 ELSE TRUE END", [False, True, True]),
        ("coalesce(duplicates, 0) * 2 - 1 >= 9", [True, True, False]),
    ],
)
def test_rule_answers_as_sql_does(rule, expected):
    frame = pl.DataFrame({"duplicates": [5, 6, None], "genre": ["code", "prose", "prose"]})
    node = make_node("Own", rule, "")
    assert frame.select(node.expression).to_series().to_list() == expected


@pytest.mark.parametrize(
    "rule",
    [
        "duplicates in (select a from read_csv('{file}'))",
        "genre IN (TABLE x)",
        "genre IN (FROM '{file}')",
        "read_csv('{file}')",
        "duplicates > AVG(duplicates)",
        "ROW_NUMBER() OVER () > 1",
        "genre = E'x'",
        "genre = 'a\\'",
        "genre = $$a$$",
        "duplicates > 1; DROP TABLE x",
        "duplicates > 1 -- comment",
        "duplicates /* comment */ > 1",
        "duplicates > 1 AS x",
        "*",
        "duplicates >",
        "duplicates > 'open",
        "1 = 1",
        "",
    ],
)
def test_rule_that_is_more_than_a_question_to_a_row_is_refused(rule, tmp_path):
    file = tmp_path / "secret.csv"
    file.write_text("a\n1\n")
    refusal(make_node, "Own", rule.replace("{file}", str(file)), "")


NODE = (
    "nodes:\n  - {{name: {name}, yes_when: {rule}, meaning: m}}\ntaxonomies:\n  - Non-Memo, Memo\n"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("taxonomies: [", "line 1: not valid YAML"),
        ("", "'nodes:' and 'taxonomies:'"),
        ("taxonomy:\n  - x\n", "unknown key 'taxonomy'. Did you mean 'taxonomies'?"),
        ("taxonomies: x\n", "a list is needed"),
        ("nodes: []\n", "no taxonomy in it"),
        ("taxonomies:\n  - [a, b]\n", "is no text"),
        ("taxonomies:\n  - Non-Memo, Gess, Recall\n", "Did you mean 'Guess'?"),
        (OWN_NODES + "  - Non-Memo, Guess, Boilerplat\n", "Did you mean 'Boilerplate'"),
        ("nodes:\n  - x\ntaxonomies:\n  - Non-Memo, Memo\n", "node 1: name, yes_when and meaning"),
        ("nodes:\n  - {name: A}\ntaxonomies: []\n", "'yes_when' is missing"),
        ("nodes:\n  - {name: A, yes_wen: b}\ntaxonomies: []\n", "Did you mean 'yes_when'?"),
        (NODE.format(name="A", rule="AVG(a) > 1"), "node 1 ('A'): rule 'AVG(a) > 1'"),
        (NODE.format(name="guess", rule="a > 1"), "the name 'guess' is taken"),
        *(
            (
                NODE.format(name=name, rule="a > 1").replace(" Memo", f" {name}, {name}"),
                f"last class '{name}' is the name of a node",
            )
            for name in ("Recall", "Others")
        ),
        (NODE.format(name="A-or-B", rule="a > 1"), "cannot name a node"),
    ],
)
def test_faulty_file_is_refused_in_one_line_with_its_name(tmp_path, text, says):
    said = refusal(read, tmp_path, text)
    assert says in said
    assert "own.yaml" in said


def test_a_node_called_as_last_classes_are_is_a_class_beside_another_last_one(tmp_path):
    text = NODE.format(name="Recall", rule="duplicates > 5")
    text = text.replace(" Memo\n", " Recall, Others\n  - Non-Memo, Guess, Recall\n")
    first, second = read(tmp_path, text)
    assert first.classes == ("Non-Memo", "Recall", "Others")
    assert second.classes == ("Non-Memo", "Guess", "Recall")


def test_rule_that_is_no_yes_or_no_is_refused_when_it_is_applied(tmp_path):
    text = NODE.format(name="Sum", rule="duplicates + 1").replace("Memo\n", "Sum, Rest\n")
    (taxonomy,) = read(tmp_path, text)
    frame = pl.DataFrame({"memorization_score": [1.0], "duplicates": [3]})
    assert "cannot be applied" in refusal(label_sequences, frame, taxonomy)
