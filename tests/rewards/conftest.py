"""What the tests of the rewards share: rows of the training set, ms-swift's plugin."""

import json
import sys

import pytest

from lab_utils import course, swift


@pytest.fixture(scope="module")
def sft_rows() -> list[dict]:
    path = course.root() / "datasets" / "verse_sft" / "train.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:300]]


@pytest.fixture(scope="module")
def plugin():
    """The plugin as ms-swift's `--external_plugins` loads it."""
    from swift.rewards import orms
    from swift.utils.utils import import_external_file

    before, path = dict(orms), list(sys.path)
    import_external_file(str(swift.plugin_path()))  # puts the plugin's folder on sys.path
    assert all(orms[name] is kind for name, kind in before.items())  # none of ms-swift's own is replaced
    yield orms
    sys.path[:] = path
