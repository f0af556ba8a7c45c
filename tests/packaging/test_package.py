"""What is installed, and what importing it costs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

import crl

ROOT = Path(__file__).parents[2]
SOURCES = {"crl": "crl", "agents": "crl/agents", "envs": "crl/envs"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def source_files():
    """Path in the tree to path in the wheel, of everything that belongs into it."""
    files = {}
    for folder, inside in SOURCES.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".csv", ".json", ".yaml") or path.name == "py.typed":
                files[path] = f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
    return files


def run(code, *flags, cwd=None):
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    for name in [*SOURCES, "pyproject.toml", "README.md", "LICENSE"]:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_packages_are_the_folders_on_disk():
    on_disk = {
        Path(inside).parent.as_posix().replace("/", ".")
        for inside in source_files().values()
        if inside.endswith("__init__.py")
    }
    assert set(project()["tool"]["setuptools"]["packages"]) == on_disk


def test_wheel_holds_the_sources_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(source_files().values())


def test_clean_environment_has_crl_alone_on_its_path(wheel, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), str(wheel)], check=True
    )
    # pip puts the command beside the packages, or leaves it out, depending on its version
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".dist-info")} - {"bin"} == {"crl"}
    assert {path.name for path in tmp_path.glob("bin/*")} <= {"crl"}
    code = "import crl.agents, crl.envs; print(crl.envs.__file__)\nimport agents"
    # -I leaves the user's site and PYTHONPATH out; the tree's own (editable) copy must not answer
    command = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__ + str(f)]\n"
    result = run(f"{command}sys.path.insert(0, {str(tmp_path)!r})\n{code}", "-I", cwd="/")
    assert result.stdout.strip() == str(tmp_path / "crl" / "envs" / "__init__.py")
    assert "No module named 'agents'" in result.stderr


@pytest.mark.parametrize(
    "module, absent",
    [
        ("crl", ["torch", "stable_baselines3", "numpy"]),
        ("crl.compute", ["torch", "stable_baselines3"]),
        ("crl.envs", ["torch", "stable_baselines3", "mujoco", "dm_control"]),
        ("crl.losses", ["stable_baselines3"]),
        ("crl.augment", ["stable_baselines3", "kornia"]),
        ("crl.contract", ["stable_baselines3"]),
        ("crl.networks", ["stable_baselines3"]),
        ("crl.metrics", ["stable_baselines3"]),
        ("crl.policies, crl.callbacks, crl.objectives, crl.cli", ["sb3_contrib"]),
    ],
)
def test_importing_is_light(module, absent):
    result = run(f"import sys, {module}\nprint([name for name in {absent} if name in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_public_names_resolve():
    for name in crl.__all__:
        assert getattr(crl, name) is not None
    assert set(dir(crl)) == set(crl.__all__)
    assert crl.__version__ == project()["project"]["version"]
    with pytest.raises(AttributeError, match="did you mean RandomShift"):
        crl.RandomShfit  # noqa: B018


def test_nothing_names_this_machine_or_a_registry():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    words = ("/" + "work/", "/" + "root/", "--" + "index-url", "files.python" + "hosted")
    for name in tracked:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", ".csv", ".yml", "") and path.is_file():
            text = path.read_text(errors="ignore")
            assert not [word for word in words if word in text], name


def test_constraints_pin_every_dependency():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = project()["project"]["dependencies"] + [
        d for e in ("dmc", "contrib", "bench", "dev") for d in project()["project"]["optional-dependencies"][e]
    ]
    names = {"".join(c if c.isalnum() or c in "-_" else " " for c in d).split()[0].lower().replace("_", "-") for d in wanted}
    assert names - {"crl"} <= pinned
