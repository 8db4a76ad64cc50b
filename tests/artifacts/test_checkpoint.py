"""A checkpoint is found from any folder of a finished run, and from nothing else."""

import json
import shutil
import sys

import psutil
import pytest

from lab_utils import processes, swift
from lab_utils.artifacts import checkpoint, run_log


def version(output, name, status="finished", steps=(2, 10), best=None):
    """A run's folder as ms-swift leaves it; `status` None: not started by us."""
    folder = output / name
    for step in steps:
        saved = folder / f"checkpoint-{step}"
        saved.mkdir(parents=True)
        (saved / "adapter_model.safetensors").write_bytes(b"weights")
        state = {"best_model_checkpoint": best and f"/elsewhere/{best}"}
        (saved / "trainer_state.json").write_text(json.dumps(state))
    folder.mkdir(parents=True, exist_ok=True)
    if status:
        (folder / checkpoint.MARK).write_text(json.dumps({"status": status}))
    return folder


V0, V1 = "v0-20260101-100000", "v1-20260101-110000"


def test_any_folder_of_a_run_will_do(tmp_path):
    folder = version(tmp_path, V0)
    last = folder / "checkpoint-10"
    assert (
        swift.find_checkpoint(tmp_path)
        == swift.find_checkpoint(folder)
        == swift.find_checkpoint(last)
        == last
    )
    assert swift.find_checkpoint(str(folder / "checkpoint-2")).name == "checkpoint-2"


def test_newest_version_by_number(tmp_path):
    version(tmp_path, "v9-20260101-100000")
    version(tmp_path, "v10-20260101-110000")
    assert swift.find_checkpoint(tmp_path).parent.name.startswith("v10")


def test_best(tmp_path):
    version(tmp_path, V0, best="checkpoint-2")
    assert swift.find_checkpoint(tmp_path, "best").name == "checkpoint-2"
    version(tmp_path, V1)
    with pytest.raises(FileNotFoundError, match="没有评测"):
        swift.find_checkpoint(tmp_path, "best")
    with pytest.raises(ValueError, match="first"):
        swift.find_checkpoint(tmp_path, "first")


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_unfinished_runs_are_refused(tmp_path, status):
    version(tmp_path, V0)
    newest = version(tmp_path, V1, status)
    for folder in (tmp_path, newest, newest / "checkpoint-10"):
        with pytest.raises(FileNotFoundError, match=V1):
            swift.find_checkpoint(folder)
    newest.rename(tmp_path / f"{V1}.{status}")
    with pytest.raises(FileNotFoundError, match=V1):
        swift.find_checkpoint(tmp_path)


def test_a_running_run_is_told_from_one_killed_hard(tmp_path):
    folder = version(tmp_path, V0, "running")
    with psutil.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        known = {"status": "running", **processes.identity(process.pid)}
        (folder / checkpoint.MARK).write_text(json.dumps(known))
        assert checkpoint.status(folder) == "running"
        with pytest.raises(FileNotFoundError, match="还在运行.*请等它结束"):
            swift.find_checkpoint(tmp_path)
        process.kill()
    assert checkpoint.status(folder) == "killed"
    with pytest.raises(FileNotFoundError, match=r"强行关掉了 \(killed\).*请重新运行训练"):
        swift.find_checkpoint(tmp_path)
    (folder / checkpoint.MARK).write_text(json.dumps({**known, "host": "another machine"}))
    assert checkpoint.status(folder) == "running"


def test_runs_started_elsewhere_are_judged_by_their_log(tmp_path):
    folder = version(tmp_path, V0, status=None)
    (folder / run_log.FILE).write_text('{"loss": 1.0, "global_step/max_steps": "10/10"}\n')
    with pytest.raises(FileNotFoundError, match="中断"):
        swift.find_checkpoint(tmp_path)
    with (folder / run_log.FILE).open("a") as out:
        out.write('{"train_runtime": 1.0, "global_step/max_steps": "10/10"}\n')
    assert swift.find_checkpoint(tmp_path).name == "checkpoint-10"


def test_half_written_checkpoint_is_no_checkpoint(tmp_path):
    folder = version(tmp_path, V0)
    (folder / "checkpoint-10" / "trainer_state.json").unlink()
    assert swift.find_checkpoint(tmp_path).name == "checkpoint-2"
    shutil.rmtree(folder / "checkpoint-2")
    with pytest.raises(FileNotFoundError, match="没有完整的检查点"):
        swift.find_checkpoint(tmp_path)


def test_never_a_base_model(tmp_path, base):
    with pytest.raises(FileNotFoundError, match="不是训练结果"):
        swift.find_checkpoint(base)
    with pytest.raises(FileNotFoundError, match="没有训练结果"):
        swift.find_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="没有这个文件夹"):
        swift.find_checkpoint(tmp_path / "none")
