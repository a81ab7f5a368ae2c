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
    losses: Annotated[
        str,
        Option(
            "--losses",
            metavar="NAME[:KIND][=WEIGHT],...",
            help="data (next token), logits:kl, logits:reverse-kl, logits:js, logits:mse, "
            "hidden:cosine, hidden:mse, attention, affinity. 'data' alone makes the control.",
        ),
    ] = "data,logits:kl",
    student: Annotated[
        str | None,
        Option("--student", help="A smaller model with the same tokenizer to begin from."),
    ] = None,
    layers: Annotated[
        float, Option("--layers", help="Layers of a new student; below 1 a share of the teacher's.")
    ] = 0.5,
    width: Annotated[
        float, Option("--width", help="Its hidden size; below 1 a share of the teacher's.")
    ] = 0.5,
    match: Annotated[
        str, Option("--match", help="Layers that are compared: even (evenly spaced), or last.")
    ] = "even",
    exclude: Annotated[
        list[str] | None,
        Option(
            "--exclude",
            metavar="STUDY|TABLE",
            help="Leave out windows that share tokens with its memorized sequences; repeatable.",
        ),
    ] = None,
    shared: Annotated[
        int, Option("--shared", min=1, help="So many tokens in a row are shared.")
    ] = 24,
    epochs: Annotated[float, Option("--epochs", help="Passes over the texts.")] = 1.0,
    steps: Annotated[
        int | None, Option("--steps", min=1, help="Optimizer steps, in place of --epochs.")
    ] = None,
    batch_size: Annotated[int, Option("--batch-size", min=1, help="Windows a step.")] = 16,
    learning_rate: Annotated[float, Option("--learning-rate", help="At its peak.")] = 5e-4,
    length: Annotated[int, Option("--length", min=2, help="Tokens of a window.")] = 64,
    limit: Annotated[
        int | None, Option("--limit", min=1, help="Windows of each of the texts at most.")
    ] = None,
    seed: Annotated[int, Option("--seed", min=0, help="Of weights and order.")] = 0,
    dtype: Annotated[str, Option("--dtype", help="Of the teacher.")] = "float32",
    device: Annotated[str, Option("--device", help="auto, cpu, cuda, mps.")] = "auto",
    trust_remote_code: Annotated[
        bool, Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
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
