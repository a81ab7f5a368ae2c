"""The language models of a study, each loaded once when first needed."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError
from mnemoscope.lm.hub import same_model
from mnemoscope.progress import say
from mnemoscope.study.folder import Study
from mnemoscope.study.records import Model
from mnemoscope.study.settings import (
    EMBEDDED,
    NO_MODEL,
    StudySettings,
    check_reference,
    split_revision,
)

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel


class Models:
    """Loads the model and its reference on first use; a loaded model may be passed in."""

    def __init__(
        self,
        settings: StudySettings,
        model: "LanguageModel | None" = None,
        reference: "LanguageModel | None" = None,
    ) -> None:
        given = {"model": model, "reference": reference}
        self.settings = settings
        self._loaded = {role: one for role, one in given.items() if one is not None}
        self.given = {role: one.fingerprint for role, one in self._loaded.items()}
        """Fingerprints of models that were passed in, which no other process could load."""

    def __getstate__(self) -> dict[str, object]:
        return {
            "settings": self.settings,
            "_loaded": {},
            "given": {},
        }  # every process loads its own

    def model(self, study: Study | None = None) -> "LanguageModel":
        """The model under study; recorded in the study, or compared with its record.

        Raises UserError: it cannot be loaded, does not fit the sequences, or did not make the
        study.
        """
        return self._get("model", self.settings.model.name, study)

    def reference(self, study: Study | None) -> "LanguageModel | None":
        """The model that never saw the sequences, None if there is none; errors as `model`."""
        name = self.settings.reference
        if name is None:
            return None
        loaded, model = self._get("reference", name, study), self.model(study)
        check_same_tokens(model, loaded.name, loaded.tokenizer)
        check_unlike(name, loaded.fingerprint, model.name, model.fingerprint)
        return loaded

    def alone(self, role: str) -> "LanguageModel":
        """The model of one role, for a worker that serves only this role; not compared."""
        name = self.settings.model.name if role == "model" else self.settings.reference
        assert name is not None
        return self._get(role, name, None)

    def other(self, name: str) -> "LanguageModel":
        """Another model with the same tokenizer, a folder or NAME@REVISION; not recorded."""
        if name not in self._loaded:
            say(f"Loading {name}")
            loaded = _load("reference", name, self.settings)
            check_same_tokens(self.model(), name, loaded.tokenizer)
            self._loaded[name] = loaded
        return self._loaded[name]

    def tokenizer(self, *, to_decode: bool = False) -> Any:
        """The tokenizer, without loading weights; as `load_tokenizer`."""
        if "model" in self._loaded:
            return self._loaded["model"].tokenizer
        name = self.settings.model.name
        _refuse_none(name)
        from mnemoscope.lm.tokenizer import load_tokenizer

        wanted = self.settings.model
        return load_tokenizer(
            place_of(name),
            revision=wanted.revision,
            trust_remote_code=wanted.trust_remote_code,
            to_decode=to_decode,
        )

    def check_reference(self) -> None:
        """Raise UserError if the reference is missing or has another tokenizer, without weights."""
        name = self.settings.reference
        if name is not None and name != EMBEDDED and self.settings.benchmark.controls:
            from mnemoscope.lm.tokenizer import load_tokenizer

            loaded, (folder, revision) = self._loaded.get("reference"), split_revision(name)
            tokenizer = loaded.tokenizer if loaded else load_tokenizer(folder, revision=revision)
            check_same_tokens(self.model(), name, tokenizer)

    def check_alike(self) -> None:
        """Raise UserError if the reference has another architecture, without weights."""
        name, wanted = self.settings.reference, self.settings.model
        if name is None or self._loaded or wanted.name == NO_MODEL:
            return  # what is loaded is compared whole
        check_reference(self.settings)
        from mnemoscope.lm.graft import check_alike
        from mnemoscope.lm.load import load_config

        folder, revision = split_revision(name)
        places = (place_of(wanted.name), wanted.revision), (place_of(folder, "reference"), revision)
        trust = wanted.trust_remote_code
        check_alike(*(load_config(*one, trust_remote_code=trust) for one in places))

    def _get(self, role: str, name: str, study: Study | None) -> "LanguageModel":
        if role not in self._loaded:
            _refuse_none(name)
            say(f"Loading {name}" + " (reference)" * (role == "reference"))
            self._loaded[role] = _load(role, name, self.settings)
        loaded = self._loaded[role]
        if study is not None:
            study.remember_model(role, facts_of(loaded, name))
        return loaded


def _refuse_none(name: str) -> None:
    if name == NO_MODEL:
        raise UserError(
            f"model.name '{NO_MODEL}': this needs a language model, and the study has none. Found "
            "a study with one: --model NAME."
        )


def _load(role: str, name: str, settings: StudySettings) -> "LanguageModel":
    from mnemoscope.lm.load import load_model
    from mnemoscope.lm.model import check_fits

    wanted = settings.model
    source, revision = name, wanted.revision
    if role == "reference":
        source, revision = split_revision(name)
    loaded = load_model(
        place_of(source, role),
        revision=revision,
        dtype=wanted.dtype,
        device=wanted.device,
        device_map=wanted.device_map,
        bos=wanted.bos,
        trust_remote_code=wanted.trust_remote_code,
    )
    check_fits(loaded, settings.sequences.length)
    return loaded


def facts_of(loaded: "LanguageModel", name: str) -> Model:
    """What a study records about a model, as plain values."""
    return {
        "name": name,
        "revision": loaded.revision,
        "fingerprint": loaded.fingerprint,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "device_map": loaded.device_map,
        "quantization": loaded.quantization,
        "n_layers": loaded.n_layers,
        "n_heads": loaded.n_heads,
        "vocab_size": loaded.vocab_size,
        "bos_id": loaded.bos_id,
        "max_positions": loaded.max_positions,
    }


def identity_of(facts: Mapping[str, Any]) -> list[Any]:
    """What of a model's recorded facts decides its figures: whatever is kept is named by these."""
    return [facts[name] for name in ("fingerprint", "dtype", "device", "bos_id")]


def vocabulary_of(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary."""
    pairs = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


def check_unlike(name: str, fingerprint: str, model: str, model_fingerprint: str) -> None:
    """Raise UserError if the reference has the same weights as the model."""
    if fingerprint == model_fingerprint:
        raise same_model(name, model)


def check_same_tokens(model: "LanguageModel", name: str, tokenizer: Any) -> None:
    """Raise UserError if the token ids of another model have other meanings."""
    if model.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise other_tokens(name, model.name)


def other_tokens(name: str, model: str) -> UserError:
    """The error for a reference whose token ids have other meanings."""
    return UserError(
        f"{name}: uses a different tokenizer than {model}, so the same ids are other tokens. "
        "Choose a model of the same family."
    )
