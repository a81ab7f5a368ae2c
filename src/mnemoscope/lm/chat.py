"""Speak to a chat-tuned model in its own chat template: a text as the beginning of its answer.

The user asks for a text to be continued, and the answer has begun with the text. So the tokens of
the text stand side by side as they do without a template, and the two can be compared.
"""

from dataclasses import replace

from mnemoscope.errors import UserError
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["in_chat"]


def in_chat(lm: LanguageModel, instruction: str) -> LanguageModel:
    """The same model, every sequence of which stands in a chat.

    Args:
        lm: a model whose tokenizer has a chat template.
        instruction: what the user asks.

    Returns:
        The model with the template's tokens in `chat`; they take the place of `bos_id`, since a
        template writes its own.

    Raises:
        UserError: no chat template, or one that cannot be filled in.
    """
    if not getattr(lm.tokenizer, "chat_template", None):
        raise UserError(f"{lm.name}: its tokenizer has no chat template. Leave --chat-template.")
    try:
        text = lm.tokenizer.apply_chat_template(
            [{"role": "user", "content": instruction}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # jinja2's and whatever a template raises itself
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{lm.name}: its chat template cannot be filled in ({reason}).") from error
    return replace(lm, chat=tuple(lm.tokenizer(text, add_special_tokens=False).input_ids))
