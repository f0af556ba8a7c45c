"""`crl probe` from a small run to its files, and what it answers to what is wrong."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crl.probe.episodes import ProbeError
from crl.probe.report import probe_run
from crl.runs.folder import RunFolder
from crl.runs.run import load_model

from ..runs.small import arguments, crl

PICTURES = {"views", "similarity", "embedding", "neighbours", "saliency"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "run"
    assert crl(*arguments(out, steps=40)).returncode == 0
    return out


def test_from_a_run_to_its_files(run):
    before = (run / "checkpoints" / "step000000000040" / "model.zip").read_bytes()
    result = crl("probe", run, "--episodes", 8, "--supervised-updates", 20)
    assert result.returncode == 0, result.stderr
    for stage in ("collecting episodes (8)", "training the supervised ceiling (20)", "probing", "drawing"):
        assert stage in result.stderr
    assert "critic encoder at agent step 40" in result.stdout and "chance 0.015" in result.stdout
    folder = run / "probe" / "step000000000040"
    assert {path.name for path in folder.iterdir()} == {"probe.json", "probe.csv", *(f"{name}.png" for name in PICTURES)}
    report = json.loads((folder / "probe.json").read_text())
    assert report["states_in_the_mean"] == ["x", "y", "vx", "vy", "goal_x", "goal_y"] and report["rows"] == 400
    assert set(report["representations"]) == {"trained", "random", "supervised", "pixel_pca"}
    rows = list(csv.DictReader((folder / "probe.csv").open()))
    assert [(row["representation"], row["layer"]) for row in rows] == [
        *((name, layer) for name in ("trained", "random", "supervised") for layer in ("conv", "output")),
        ("pixel_pca", "output"),
    ]
    trained = report["representations"]["trained"]
    probe = trained["probes"]["output"]
    assert float(rows[1]["r2"]) == probe["r2"] == pytest.approx(np.mean([*probe["r2_by_state"].values()][:6]))
    assert len(trained["std"]) == report["features_dim"] and 1.0 <= trained["effective_rank"] <= report["features_dim"]
    assert trained["retrieval"]["negatives"] == 64
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert events.Scalars("probe/trained_output_r2")[0].value == pytest.approx(probe["r2"], rel=1e-5)
    assert set(events.Tags()["images"]) == {f"probe/{name}" for name in PICTURES}
    assert (run / "checkpoints" / "step000000000040" / "model.zip").read_bytes() == before
    assert crl("eval", run, "--episodes", 1).returncode == 0, "the run is as usable as before"


def test_it_is_the_checkpoints_encoder_that_is_probed(run, tmp_path, monkeypatch):
    """The encoder is frozen, not the fresh one, and equal seeds give equal numbers."""
    seen = {}
    from crl.probe import report as module

    original = module.measure

    def spy(representations, *args):
        seen.update({name: {k: v.clone() for k, v in e.state_dict().items()} for name, e in representations.items()})
        result = original(representations, *args)
        assert all((v == seen["trained"][k]).all() for k, v in representations["trained"].state_dict().items())
        return result

    monkeypatch.setattr(module, "measure", spy)
    options = dict(seed=1, supervised_updates=2, with_pictures=False)
    reports = [probe_run(RunFolder(run), 8, out=tmp_path / str(i), **options) for i in range(2)]
    for report in reports:
        report.pop("folder")
    assert reports[0] == reports[1]
    assert not list((tmp_path / "0").glob("*.png"))
    stored = load_model(RunFolder(run)).policy.encoder.state_dict()
    assert all((seen["trained"][f"extractor.{name}"] == value).all() for name, value in stored.items())
    names = [name for name in seen["trained"] if "weight" in name]
    assert any((seen["trained"][name] != seen["random"][name]).any() for name in names)
    assert any((seen["supervised"][name] != seen["random"][name]).any() for name in names)


@pytest.mark.parametrize(
    "args, words",
    [
        (["nowhere"], ["no folder nowhere"]),
        (["."], ["is no run"]),
        (["RUN", "--episodes", "7"], ["--episodes 7", "at least 8"]),
        (["RUN", "--seed", "-1"], ["--seed -1"]),
        (["RUN", "--supervised-updates", "-1"], ["--supervised-updates -1"]),
        (["RUN", "--out", "/dev/null/probe"], ["/dev/null is a file", "--out"]),
    ],
)
def test_wrong_usage(args, words, run, tmp_path):
    result = crl("probe", *[str(run) if arg == "RUN" else arg for arg in args], cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr and all(word in result.stderr for word in words)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_of_the_function(run, tmp_path):
    with pytest.raises(ProbeError, match="no encoder 'actress': choose one of critic"):
        probe_run(RunFolder(run), encoder="actress")
    with pytest.raises(ProbeError, match="at least 8"):
        probe_run(RunFolder(run), episodes=7)
    assert issubclass(ProbeError, ValueError) and ProbeError.__module__.startswith("crl."), "the command line says it in words"


def test_a_run_without_checkpoint(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    result = crl("probe", tmp_path)
    assert result.returncode == 2 and "no checkpoint yet" in result.stderr


def test_without_matplotlib(run, tmp_path):
    """Pictures cannot be had: said before anything is done. Numbers can."""
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'matplotlib' else real(name, *a)\n"
        "sys.modules['matplotlib'] = None\n"
        "from crl.cli import main; main(sys.argv[1:])"
    )

    def probe(*more):
        command = [sys.executable, "-c", code, "probe", str(run), "--episodes", "8", "--out", str(tmp_path / "o"), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    result = probe()
    assert result.returncode == 2 and "pip install 'crl[bench]'" in result.stderr and "--no-pictures" in result.stderr
    assert not (tmp_path / "o").exists()
    assert probe("--no-pictures", "--supervised-updates", "0").returncode == 0
    report = json.loads((tmp_path / "o" / "probe.json").read_text())
    assert "supervised" not in report["representations"] and report["gap_closed"] == {}
