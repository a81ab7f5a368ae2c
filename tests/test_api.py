"""The names of `import mnemoscope as ms`: each resolves, and none is hidden by a room's name."""

import importlib
import pkgutil

import mnemoscope as ms


def test_every_public_name_resolves_also_after_all_rooms_are_imported():
    rooms = {one.name for one in pkgutil.iter_modules(ms.__path__)}
    assert not rooms & set(ms.__all__)  # an imported room takes the place of its name
    for room in rooms:
        importlib.import_module(f"mnemoscope.{room}")
    for name in ms.__all__:
        assert callable(getattr(ms, name)), name
    assert set(dir(ms)) == {*ms.__all__, "__version__"}


def test_a_study_shows_itself_in_a_notebook(tmp_path):
    study = ms.Study.create(tmp_path / "<i>", ms.StudySettings())
    page = study._repr_html_()
    assert "&lt;i&gt;" in page
    assert "<td>sequences</td><td>–</td>" in page
    assert {"sequences", "settings"} <= set(dir(study))
    assert not {"adopt", "forget", "lock"} & set(dir(study))


def test_tables_of_a_study_are_one_call(tiny_studies):
    study = ms.Study(tiny_studies["report"])
    for name in ("sequences", "labels", "samples", "predictions", "benchmark", "comparison"):
        assert name in dir(study)
        kept = study.read(f"{name}.parquet")
        assert getattr(study, name).select(kept.columns).equals(kept)
    for later in ("verdicts.parquet", "features.parquet"):
        kept = study.read(later)
        assert study.sequences.select(kept.columns).equals(kept)
