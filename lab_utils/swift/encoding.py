"""What ms-swift itself makes of a conversation: token ids and labels."""

from pathlib import Path

from lab_utils import models


def encode(
    model: str | Path,
    messages: list[dict],
    max_length: int | None = None,
    truncation: str = "raise",
    template: str = "chatml",
    model_type: str = "qwen3",
) -> tuple[list[int], list[int]]:
    """(input_ids, labels) of one training row, both (seq,), from ms-swift's real template.

    Imports ms-swift into this process (seconds). `truncation`: `raise`, `left` or `right`.
    `lab_utils.data.loss_mask.encode` gives the same without ms-swift for a ChatML tokenizer.
    """
    import logging

    models.quiet()
    from swift.model import get_model_processor
    from swift.template import get_template
    from swift.utils import get_logger

    logger = get_logger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        _, processor = get_model_processor(str(model), model_type=model_type, load_model=False)
        encoder = get_template(
            processor, template_type=template, max_length=max_length, truncation_strategy=truncation
        )
        encoder.set_mode("train")
        encoded = encoder.encode({"messages": [dict(message) for message in messages]})
    finally:
        logger.setLevel(before)
    return encoded["input_ids"], encoded["labels"]
