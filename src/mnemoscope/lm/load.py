"""Load a causal language model from a folder, a GGUF file or the hub, or refuse it in one line.

`convert_gguf` makes an ordinary folder of a GGUF file, once: loading it is then many times faster.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mnemoscope.errors import NoRoomError, UserError, a_kind, check_installed, first_line
from mnemoscope.files import atomic_folder, refuse_existing
from mnemoscope.lm.hub import Source, find_source, merge_adapter
from mnemoscope.lm.model import LanguageModel, wrap_model
from mnemoscope.lm.placement import check_device_map, check_dtype, find_device, warn_if_emulated
from mnemoscope.lm.tokenizer import loading, quiet_transformers, read_tokenizer
from mnemoscope.progress import say


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | Mapping[str, int | str] | None = None,
    bos: str = "auto",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a causal language model and its tokenizer, in evaluation mode.

    Named is a folder, a ``.gguf`` file or a folder holding one, a PEFT adapter's folder (it is
    merged into its base model; a tokenizer there is read in place of the base's), or a hub name
    with a branch, tag or commit as `revision`. Only safetensors and GGUF are read: pickled weights
    can run code. `dtype` ``auto`` is as stored; `device_map` spreads the model over devices, memory
    and disk as transformers does, in place of `device`; `bos` is as in `find_bos`. Raises
    UserError: not there, not reachable, no causal language model, no tokenizer or one with more
    tokens than the adapter's base, weights missing, or a setting that does not exist.
    DamagedDataError: the weights cannot be read. NoRoomError: the device's memory is too small.
    """
    torch_dtype, torch_device = check_dtype(dtype), find_device(device)
    source = find_source(name, revision)
    arguments = {**source.arguments(), "trust_remote_code": trust_remote_code}
    if device_map is not None:
        device_map = check_device_map(device_map, device=device)
        if source.adapter is not None or source.gguf_file is not None:
            what = "an adapter is merged" if source.adapter else "a .gguf file is read"
            raise UserError(
                f"{source.name}: {what} on one device, so without a device_map. Save the model as "
                "plain safetensors, or name one device."
            )
    with loading_weights(source):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source.location, **arguments)
        _check_is_causal(source, config)
        if _is_quantized(source, config) and device_map is None:
            device_map = {"": str(torch_device)}  # bitsandbytes' weights are not moved afterwards
        placement = {} if device_map is None else {"device_map": device_map}
        tokenizer = read_tokenizer(source, trust_remote_code)
        model = _read_weights(source, dtype=torch_dtype, **placement, **arguments)
        if source.adapter is not None:
            _check_embedded(source, tokenizer, model, trust_remote_code)
            model = merge_adapter(model, source.adapter)
        if device_map is None:
            model = model.to(torch_device)
        lm = wrap_model(model, tokenizer, name=str(name), revision=revision, bos=bos)
        _check_looks_back(lm)
    warn_if_emulated(model.dtype, model.device)
    return lm


def load_config(
    name: str | Path, revision: str | None = None, *, trust_remote_code: bool = False
) -> Any:
    """Load only the configuration of a model; named and refused as in `load_model`."""
    source = find_source(name, revision)
    with loading(source):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(
            source.location, trust_remote_code=trust_remote_code, **source.arguments()
        )


def _check_embedded(source: Source, tokenizer: Any, model: Any, trust_remote_code: bool) -> None:
    """Refuse an adapter with tokens of its own that the base model has no embedding for."""
    adapter, n_rows = source.adapter, model.get_input_embeddings().num_embeddings
    if adapter is None or not adapter.has_tokenizer:
        return
    beyond = {token for token, index in tokenizer.get_vocab().items() if index >= n_rows}
    # Some bases have such tokens themselves: Gemma 3's of images, in its models without any.
    if beyond and beyond - set(
        read_tokenizer(replace(source, adapter=None), trust_remote_code).get_vocab()
    ):
        raise UserError(
            f"{adapter.folder}: its tokenizer has {len(tokenizer)} tokens, the embedding of "
            f"{adapter.base} {n_rows}. Resize that model (resize_token_embeddings), save it and "
            "name it in adapter_config.json."
        )


def _read_weights(source: Source, **arguments: Any) -> Any:
    """Load the weights and refuse a model of which some were made up."""
    from transformers import AutoModelForCausalLM

    if source.gguf_file is None:
        arguments["use_safetensors"] = True
    model, report = AutoModelForCausalLM.from_pretrained(
        source.location, output_loading_info=True, **arguments
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{source.name}: {len(missing)} weights are missing, {missing[0]} first, and would be "
            "random. Give a whole causal language model."
        )
    if not model._can_set_attn_implementation() and model.config._attn_implementation != "eager":
        # Falcon chooses its attention when it is built; capture needs its eager one.
        return _read_weights(source, attn_implementation="eager", **arguments)
    return model


class Whole(NamedTuple):
    """A model of transformers and its tokenizer."""

    model: Any
    tokenizer: Any


class Family(NamedTuple):
    """A kind of transformers' models that are not causal."""

    auto: str  # their class there
    called: str
    how: str  # to give one, where something else is given
    check: Callable[[str, Any], None]  # refuses configurations, by the name of the model

    def read(
        self,
        name: str | Path,
        *,
        revision: str | None,
        device: str,
        dtype: str = "float32",
        is_fitted: bool = True,
        **asked: Any,
    ) -> Whole:
        """Read one; what is `asked` goes to its class.

        Where it need not be fitted, weights that are missing are drawn by the seed 0. Errors as
        `load_model`.
        """
        torch_dtype, to = check_dtype(dtype), find_device(device)
        source = find_source(name, revision)
        if source.adapter is not None or source.gguf_file is not None:
            what = "an adapter" if source.adapter else "a .gguf file"
            raise UserError(f"{name}: {what}, where a whole {self.called} is needed. {self.how}")
        with loading_weights(source):
            import transformers

            arguments = source.arguments()
            config = transformers.AutoConfig.from_pretrained(source.location, **arguments)
            self.check(str(name), config)
            with _seeded(0):
                model, report = getattr(transformers, self.auto).from_pretrained(
                    source.location,
                    output_loading_info=True,
                    use_safetensors=True,
                    dtype=torch_dtype,
                    **asked,
                    **arguments,
                )
            tokenizer = read_tokenizer(source, trust_remote_code=False)
        if is_fitted and (missing := sorted(report["missing_keys"])):
            raise UserError(
                f"{name}: {len(missing)} weights are missing, {missing[0]} first, so it is no "
                f"whole {self.called}. Give the folder that training has saved."
            )
        return Whole(model.to(to), tokenizer)

    def refuse_other(self, model: Any, name: str) -> None:
        """Refuse a loaded model that is none of these."""
        from transformers import PreTrainedModel

        if not isinstance(model, PreTrainedModel):
            raise UserError(f"{name}: {a_kind(model)}, no {self.called}. {self.how}")
        self.check(name, model.config)


def fresh_weights(lm: LanguageModel, *, seed: int) -> LanguageModel:
    """A model that is not causal, with weights as they are before any training, drawn by a seed."""
    with _seeded(seed):
        model = type(lm.model)(deepcopy(lm.model.config)).to(lm.device)
    name = f"{lm.name}, fresh weights"
    return wrap_model(model, lm.tokenizer, name=name, bos="never", fingerprint="")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def loading_weights(source: Source) -> Iterator[None]:
    """As `loading`; NoRoomError: the device's memory is too small."""
    with loading(source):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise NoRoomError(
                f"{source.name}: does not fit into the device's memory. Use --dtype bfloat16 or "
                "--device cpu."
            ) from error


def _check_is_causal(source: Source, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    has_own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if config.is_encoder_decoder or not (
        has_own_code or config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ):
        raise UserError(
            f"{source.name}: model type '{config.model_type}' is no causal language model. "
            "Choose one that transformers' AutoModelForCausalLM loads."
        )


def _is_quantized(source: Source, config: Any) -> bool:
    """True for weights of bitsandbytes; GGUF becomes plain, other methods are rejected."""
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return False
    settings = quantization if isinstance(quantization, dict) else vars(quantization)
    method = settings.get("quant_method", "unknown")
    method = getattr(method, "value", method)
    if method == "bitsandbytes":
        what = f"{source.name}: quantized weights (bitsandbytes) need"
        check_installed(what, "bitsandbytes", "accelerate", extra="bitsandbytes")
        if source.adapter is not None:
            raise UserError(
                f"{source.name}: quantized, and merging an adapter would round its weights again. "
                "Name the plain model as its base in adapter_config.json."
            )
        return True
    raise UserError(
        f"{source.name}: quantized weights ({method}) are not read. Give the model as it was "
        "before, with --dtype bfloat16, or a .gguf file of it."
    )


def _check_looks_back(lm: LanguageModel) -> None:
    """Reject a model whose first logits depend on a later token, as BERT's with a causal head."""
    pair = torch.zeros(2, 2, dtype=torch.int64, device=lm.device)
    pair[1, 1] = lm.vocab_size - 1
    first, second = _logits(lm, pair)[:, 0].float()
    if bool((first - second).abs().max() > 0.05 * first.std()):
        raise UserError(
            f"{lm.name}: what it says after a token depends on later tokens, so it is no causal "
            "language model. Choose another."
        )


def _logits(lm: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the model's first forward, where bitsandbytes notices widths it cannot compute."""
    try:
        with torch.inference_mode():
            logits: torch.Tensor = lm.model(input_ids=tokens, use_cache=False).logits
    except (AssertionError, RuntimeError) as error:
        if lm.quantization is None or isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{lm.name}: {lm.quantization} cannot compute with these weights on {lm.device} "
            f"({first_line(error)}). Use another --device, or the model as it was before."
        ) from error
    return logits


def convert_gguf(file: str | Path, folder: str | Path) -> Path:
    """Write a GGUF model as config, safetensors and tokenizer, and return the folder.

    Weights are stored dequantized in float32: same numbers and fingerprint as the file itself, four
    bytes a weight. `folder` must not exist; it appears only when it is complete. Raises UserError:
    the folder exists, the file holds no model, or gguf is not installed. NoRoomError: the disk is
    full.
    """
    refuse_existing(Path(folder))
    say(f"Reading {file} and dequantizing its weights; this can take minutes")
    lm = load_model(file, device="cpu")
    say(f"Writing {sum(one.numel() for one in lm.model.parameters()):,} parameters to {folder}")
    # The same weights in a model that may be saved: `save_pretrained` refuses one from GGUF.
    config = type(lm.model.config).from_dict(lm.model.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(lm.model)(config)
    fresh.load_state_dict(lm.model.state_dict())
    with atomic_folder(folder) as temporary, quiet_transformers():
        fresh.to(lm.model.dtype).save_pretrained(temporary)
        lm.tokenizer.save_pretrained(temporary)
    return Path(folder)
