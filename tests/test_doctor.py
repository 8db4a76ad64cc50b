"""The report on a machine: what it finds, what it recommends, and that it never fails itself."""

import json
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from lab_utils import doctor, models

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No hub is tried for real, and no profile is forced."""
    for name in ("LAB_PROFILE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Sets the lock's text: `lock("peft==0.20.0", …)`."""

    def write(*lines: str) -> None:
        file = tmp_path / "requirements.lock"
        file.write_text("\n".join(lines) + "\n")
        monkeypatch.setattr(doctor, "LOCK", file)

    return write


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script alone on the PATH: `program("nvidia-smi", "echo …")`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, text: str) -> Path:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return file

    return write


def row(name: str) -> doctor.Row:
    """The one row of the report with this name."""
    (found,) = [row for row in doctor.examine().rows if row.name == name]
    return found


def test_the_report_covers_everything_and_every_finding_has_a_remedy():
    report = doctor.examine()
    names = [row.name for row in report.rows]
    assert len(names) == len(set(names))
    wanted = {
        "Python", "平台", "torch", *doctor.PACKAGES, "vllm", "torchvision 冲突", "CPU 核数", "内存", "磁盘", "GPU",
        "bfloat16", "C++ 编译器", "ModelScope", "Hugging Face", "随附模型", "中文字体", "配置档",
    }  # fmt: skip
    assert wanted == set(names)
    assert {row.status for row in report.rows} <= {"ok", "warn", "fail"}
    assert [row.name for row in report.rows if bool(row.remedy) != (row.status != "ok")] == []
    assert all(row.value for row in report.rows)


def test_examining_does_not_import_torch():
    if not doctor.version("torch").endswith("+cpu"):
        pytest.skip("a CUDA build of torch has to be asked whether it sees a device")
    script = "import sys; from lab_utils import doctor; doctor.examine(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_a_package_of_another_version_is_reported_against_the_lock(lock):
    have = doctor.version("peft")
    major, minor, *_ = have.split(".")
    lock(f"peft=={have}")
    assert row("peft") == doctor.Row("peft", "ok", have)
    lock(f"peft=={major}.{minor}.99")
    assert row("peft").status == "warn"
    lock(f"peft=={major}.{int(minor) + 1}.0")
    assert row("peft") == doctor.Row(
        "peft",
        "fail",
        f"{have}，课程在 {major}.{int(minor) + 1}.0 上测试",
        f"python -m pip install peft=={major}.{int(minor) + 1}.0",
    )
    assert not doctor.examine().ok


def test_the_local_label_of_a_build_does_not_count(monkeypatch):
    for have in (doctor.TORCH, f"{doctor.TORCH}+cpu", f"{doctor.TORCH}+cu130"):
        monkeypatch.setattr(doctor, "version", lambda _, have=have: have)
        assert doctor._package("torch", doctor.TORCH) == doctor.Row("torch", "ok", have)
    monkeypatch.setattr(doctor, "version", lambda _: "2.9.1+cpu")
    assert doctor._package("torch", doctor.TORCH).status == "warn"


def test_a_package_that_is_not_installed_is_a_failure(lock, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    lock("no-such-package==1.0")
    finding = row("no-such-package")
    assert (finding.status, finding.remedy) == ("fail", "python -m pip install no-such-package==1.0")


def test_only_the_lock_lines_for_this_python_count(lock):
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    lock(
        "# made by uv",
        "",
        f"numpy==1.0 ; python_version < '{here}'",
        f"numpy==2.0 ; python_version >= '{here}'",
        "six==1.17.0",
    )
    assert doctor.locked_versions() == {"numpy": "2.0", "six": "1.17.0"}


def test_the_shipped_lock_pins_every_package_the_report_compares():
    assert set(doctor.PACKAGES) <= set(doctor.locked_versions())


def test_torch_and_python_agree_with_pyproject():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = [r for r in project["optional-dependencies"]["train"] if r.startswith("torch>")]
    assert doctor.TORCH in SpecifierSet(torch.removeprefix("torch"))
    least, below = (".".join(map(str, v)) for v in doctor.PYTHON)
    assert SpecifierSet(project["requires-python"]) == SpecifierSet(f">={least},<{below}")


def test_another_python_is_a_failure(monkeypatch):
    monkeypatch.setattr(doctor, "PYTHON", ((3, 98), (3, 99)))
    finding = row("Python")
    assert (finding.status, finding.remedy) == ("fail", "conda create -n llm python=3.98")


def test_a_torchvision_that_does_not_fit_torch_is_a_failure(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "UNWANTED", ("torchvision",))
    finding = row("torchvision 冲突")
    assert finding.status == "fail"
    assert "operator torchvision::nms does not exist" in finding.value
    assert finding.remedy == "python -m pip uninstall -y torchvision"
    (package / "__init__.py").write_text("")
    assert row("torchvision 冲突").status == "ok"


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "fail"), (2.0, "warn"), (50.0, "ok")])
def test_a_disk_with_little_room_is_reported(monkeypatch, free_gib, status):
    usage = doctor.shutil.disk_usage("/")._replace(free=int(free_gib * doctor.GIB))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert row("磁盘").status == status


def test_the_limits_of_a_container_count(monkeypatch):
    limits = {
        "memory.max": str(2 * doctor.GIB),
        "memory.current": str(int(1.5 * doctor.GIB)),
        "memory.stat": f"anon 1\ninactive_file {doctor.GIB // 4}\nactive_file 2",
        "cpu.max": "100000 100000",
    }
    monkeypatch.setattr(doctor, "_cgroup", limits.__getitem__)
    assert row("内存").status == "warn"
    assert row("内存").value.startswith("共 2.0 GiB，可用 0.8 GiB")
    assert row("CPU 核数").value.startswith("1；")


def test_an_nvidia_card_is_described_and_a_cpu_build_of_torch_beside_it_reported(program, monkeypatch):
    program("nvidia-smi", "echo 'Tesla T4, 15360, 550.54.15, 7.5'")
    monkeypatch.setattr(doctor, "version", lambda _: "2.13.0+cu130")
    assert row("GPU") == doctor.Row("GPU", "ok", "Tesla T4，显存 15.0 GiB，驱动 550.54.15")
    assert "不支持（计算能力 7.5）" in row("bfloat16").value
    monkeypatch.setattr(doctor, "version", lambda _: "2.13.0+cpu")
    finding = row("GPU")
    assert finding.status == "warn"
    assert finding.remedy == "python -m pip install --force-reinstall torch==2.13.0"


def test_a_driver_in_trouble_is_reported(program):
    program("nvidia-smi", "echo 'Driver/library version mismatch'; exit 18")
    assert row("GPU").status == "warn"
    assert "Driver/library version mismatch" in row("GPU").value


def test_a_compiler_is_looked_for(program):
    assert row("C++ 编译器").status == "warn"
    assert "g++" in row("C++ 编译器").remedy or sys.platform == "darwin"
    compiler = program("g++", "")
    assert row("C++ 编译器") == doctor.Row("C++ 编译器", "ok", compiler.name)


def test_an_unreachable_hub_is_worth_a_note_only():
    finding = row("ModelScope")
    assert (finding.status, finding.remedy) == ("warn", "curl -I http://127.0.0.1:9")


def test_a_hub_that_answers_nothing_does_not_hold_up_the_report(monkeypatch):
    let_go, waiting = threading.Event(), []

    def knock(*_) -> None:
        waiting.append(threading.current_thread())
        let_go.wait()

    monkeypatch.setattr(models.hub, "_knock", knock)
    assert row("Hugging Face").status == "warn"
    assert all(thread.is_alive() for thread in waiting), "the report waited for an answer"
    assert len(waiting) == len(models.HUBS)
    let_go.set()


def test_the_shipped_model_and_fonts_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    assert (row("随附模型").status, row("随附模型").remedy) == ("fail", "python -m lab_utils.pretrain")
    assert row("中文字体").status == "warn"
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        file = tmp_path / models.SHIPPED / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * 1_000_000)
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "NotoSansSC-subset.ttf").touch()
    assert row("随附模型") == doctor.Row("随附模型", "ok", f"{models.SHIPPED}，3.0 MB")
    assert row("中文字体") == doctor.Row("中文字体", "ok", "NotoSansSC-subset.ttf")


def test_a_wrong_lab_profile_is_a_failure_with_a_remedy(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "tpu")
    finding = row("配置档")
    assert (finding.status, finding.remedy) == ("fail", "export LAB_PROFILE=cpu")
    assert "'tpu'" in finding.value
    monkeypatch.setenv("LAB_PROFILE", "cpu")
    assert row("配置档").value.startswith("cpu（")


@pytest.mark.parametrize("index", range(len(doctor._PROBES)))
def test_a_probe_that_fails_becomes_a_row_and_the_others_stay(monkeypatch, index):
    def broken():
        raise OSError("no such device")

    whole = doctor.examine()
    probes = list(doctor._PROBES)
    name, probe = probes[index]
    probes[index] = (name, broken)
    monkeypatch.setattr(doctor, "_PROBES", tuple(probes))
    report = doctor.examine()
    (failed,) = [r for r in report.rows if "no such device" in r.value]
    assert (failed.name, failed.status) == (name, "warn")
    assert failed.remedy
    assert len(report.rows) == len(whole.rows) - len(probe()) + 1


REPORT = doctor.Report(
    (
        doctor.Row("磁盘", "warn", "剩 <2> GiB [bold]", "du -sh ~/.cache/* | sort -h"),
        doctor.Row("torch", "fail", "没有安装", "python -m pip install torch"),
        doctor.Row("Python", "ok", "3.11.7"),
    )
)


def test_a_report_is_fine_unless_a_row_fails():
    assert not REPORT.ok
    assert doctor.Report(REPORT.rows[:1] + REPORT.rows[2:]).ok


def test_json_holds_the_whole_report():
    data = json.loads(REPORT.to_json())
    assert data["ok"] is False
    assert [doctor.Row(**fields) for fields in data["rows"]] == list(REPORT.rows)


def test_printing_shows_each_row_literally(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    REPORT.print()
    text = capsys.readouterr().out
    wanted = [
        "剩 <2> GiB [bold]",
        "du -sh ~/.cache/* | sort -h",
        "要修",
        "留意",
        "正常",
        "有 1 项要修；1 项留意，1 项正常。",
    ]
    assert [word for word in wanted if word not in text] == []


def test_the_notebook_table_is_escaped():
    text = REPORT._repr_html_()
    assert "剩 &lt;2&gt; GiB [bold]" in text
    assert "<code>python -m pip install torch</code>" in text
    assert text.count("<tr>") == 4
