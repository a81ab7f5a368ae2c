"""Is a model on the hub: asked once, at once, before anything heavy is imported."""

from collections.abc import Iterator
from functools import cache

from mnemoscope.errors import UserError
from mnemoscope.lm.adapter import find_adapter
from mnemoscope.lm.source import find_source
from mnemoscope.progress import say

__all__ = ["NO_FILE", "UNREACHABLE", "check_model", "check_on_hub", "hub_reason"]

_PATIENCE = 10.0  # seconds for the one question
UNREACHABLE = "no such folder here, and the hub cannot be reached. Check path or connection."
NO_FILE = (
    "the hub has it, but without config.json or safetensors weights. Choose another revision or "
    "model."
)


def check_model(name: str, revision: str | None = None) -> None:
    """Refuse a model that is not there; loads neither torch nor transformers.

    Args:
        name: a folder, a ``.gguf`` file, an adapter's folder, or a hub name.
        revision: hub branch, tag or commit.

    Raises:
        UserError: as `find_source`, `find_adapter` and `check_on_hub`.
    """
    adapter = find_adapter(name)
    if adapter is not None:
        name, revision = adapter.base, revision or adapter.revision
    source = find_source(name, revision)
    if not source.is_local:
        check_on_hub(source.location, source.revision)


@cache
def check_on_hub(name: str, revision: str | None) -> None:
    """Ask the hub once for a model that is not in its cache.

    The hub's own client tries six times, half a minute in all, before it says that nobody answers.

    Raises:
        UserError: the hub cannot be reached, or does not have it.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
        say(f"No folder {name} here: asking the Hugging Face hub for it")
        HfApi().model_info(name, revision=revision, timeout=_PATIENCE)
    except HFValidationError:
        raise UserError(f"{name}: no such model folder or file. Check the path.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled) as error:
        reason = hub_reason(error)
        if reason is not None:  # another answer is for the client itself to make something of
            raise UserError(f"{name}: {reason}") from error
    except Exception as error:  # whatever the client's network library raises
        raise UserError(f"{name}: {UNREACHABLE}") from error


def hub_reason(error: BaseException) -> str | None:
    """Say in our words what the hub's client raised; None for what we have no words for."""
    from huggingface_hub import errors

    # The special before the general, and what the user can do.
    known: tuple[tuple[type[BaseException], str], ...] = (
        (errors.GatedRepoError, "needs a permission on the hub that you lack. Ask on its page."),
        (
            errors.RepositoryNotFoundError,
            "no folder here and no model on the hub has this name. Check it.",
        ),
        (errors.RevisionNotFoundError, "has no such revision on the hub. Check --revision."),
        (errors.LocalEntryNotFoundError, UNREACHABLE),
        (errors.OfflineModeIsEnabled, UNREACHABLE),
        (errors.EntryNotFoundError, NO_FILE),
    )
    for cause in _causes(error):
        for kind, reason in known:
            if isinstance(cause, kind):
                return reason
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, nearest first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
