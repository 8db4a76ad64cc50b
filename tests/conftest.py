"""Fixtures of several folders."""

import pytest


@pytest.fixture(scope="module")
def plain_trainer():
    """transformers' Trainer as it came: ms-swift, once imported in this process, has put callbacks of its
    own into it, which ask for arguments that only its own trainers have."""
    from transformers import trainer, trainer_callback

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "DEFAULT_CALLBACKS", [trainer_callback.DefaultFlowCallback])
        patch.setattr(trainer, "DEFAULT_PROGRESS_CALLBACK", trainer_callback.ProgressCallback)
        patch.setattr(trainer, "PrinterCallback", trainer_callback.PrinterCallback)
        yield
