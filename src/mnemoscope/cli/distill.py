"""The verb distill: a smaller model that learns from a larger one, and what is kept from it."""

from typing import Annotated

from typer import Argument, Option

from mnemoscope.cli.options import Out, Quiet
from mnemoscope.cli.study import shown
from mnemoscope.errors import UserError, nearest


def distill(
    teacher: Annotated[str, Argument(help="Folder, hub name, .gguf file, or 'embedded'.")],
    texts: Annotated[list[str], Option("--texts", help="Texts or tables to train on; repeatable.")],
    out: Out,
    losses: str = Option(
        "data,logits:kl",
        metavar="NAME[:KIND][=WEIGHT],...",
        help="data (next token), logits:kl, logits:reverse-kl, logits:js, logits:mse, "
        "hidden:cosine, hidden:mse, attention, affinity. 'data' alone makes the control.",
    ),
    student: str | None = Option(
        None, help="A smaller model with the same tokenizer to begin from."
    ),
    layers: float = Option(0.5, help="Layers of a new student; below 1 a share of the teacher's."),
    width: float = Option(0.5, help="Its hidden size; below 1 a share of the teacher's."),
    match: str = Option("even", help="Layers that are compared: even (evenly spaced), or last."),
    exclude: list[str] | None = Option(
        None,
        metavar="STUDY|TABLE",
        help="Leave out windows that share tokens with its memorized sequences; repeatable.",
    ),
    shared: int = Option(24, min=1, help="So many tokens in a row are shared."),
    epochs: float = Option(1.0, help="Passes over the texts."),
    steps: int | None = Option(None, min=1, help="Optimizer steps, in place of --epochs."),
    batch_size: int = Option(16, min=1, help="Windows a step."),
    learning_rate: float = Option(5e-4, help="At its peak."),
    length: int = Option(64, min=2, help="Tokens of a window."),
    limit: int | None = Option(None, min=1, help="Windows of each of the texts at most."),
    seed: int = Option(0, min=0, help="Of weights and order."),
    dtype: str = Option("float32", help="Of the teacher."),
    device: str = Option("auto", help="auto, cpu, cuda, mps."),
    trust_remote_code: bool = Option(
        False, "--trust-remote-code", help="Run code that comes with the model."
    ),
    quiet: Quiet = False,
) -> None:
    """Train a smaller model on what a larger one says; does it inherit what that memorized?

    Example: mnemoscope distill embedded --texts texts/ --losses data,logits:kl -o student
    """
    if match not in ("even", "last"):
        raise UserError(f"--match {match}: wants even or last.{nearest(match, ('even', 'last'))}")
    for name, value in (("--epochs", epochs), ("--learning-rate", learning_rate)):
        if not 0 < value < float("inf"):
            raise UserError(f"{name} {value:g}: must be above 0.")
    from mnemoscope.flow.distill import CARD, DistillAsked
    from mnemoscope.flow.distill import distill as train
    from mnemoscope.training.distill import DistillSettings, parse_losses

    settings = DistillSettings(
        losses=parse_losses(losses),
        match="even" if match == "even" else "last",
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    asked = DistillAsked(
        teacher=teacher,
        texts=tuple(texts),
        settings=settings,
        student=student,
        layers=layers,
        width=width,
        exclude=tuple(exclude or ()),
        shared=shared,
        length=length,
        limit=limit,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    with shown(quiet):
        card = train(asked, out)
    shape, first, last = card["student"], card["history"][0], card["history"][-1]
    moved = ", ".join(f"{one} {first[one]:.3g} to {last[one]:.3g}" for one in card["losses"])
    print(
        f"{shape['num_hidden_layers']} layers of {shape['hidden_size']}, "
        f"{shape['parameters']:,} parameters; {card['steps']:,} steps on "
        f"{card['texts']['windows']:,} windows: {moved}."
    )
    print(f"Wrote {out}, its card is {CARD}.")
    print(
        "Next: train a control on the same texts (--losses data), then "
        f"'mnemoscope analyze distilled STUDY --student {out} --control CONTROL'."
    )
