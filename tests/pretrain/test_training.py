"""Pre-training by any objective: it learns, it can be stopped and taken up again bitwise, and it writes an encoder."""

import csv
import json
import signal

import numpy as np
import pytest
import torch as th
from safetensors.torch import load_file

from crl.augment import RandomCrop
from crl.objectives import OBJECTIVES
from crl.pretrain.data import DataError
from crl.pretrain.folder import PretrainFolder, is_pretraining
from crl.pretrain.parts import AUGMENTATIONS, PartError
from crl.pretrain.training import Pretraining, new_pretraining, pretrain
from crl.runs.folder import RunFolder, RunFolderError
from crl.runs.run import RunError, Stopped
from crl.runs.stop import StopRequest

from ..runs.small import arguments, crl, start, wait_for
from .stored import saved, toy_buffer

SMALL = {"encoder.filters": "4", "encoder.layers": "2", "encoder.features_dim": "12"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("data") / "buffer.pkl")


def begin(data, out, updates=12, settings=None, **kwargs):
    options = dict(batch_size=8, log_every=3, checkpoint_every=4, threads=1, device="cpu") | kwargs
    return new_pretraining(data, settings={**SMALL, **(settings or {})}, updates=updates, out=out, **options)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_any_objective_moves_the_encoder(objective, data, tmp_path):
    folder = begin(data, tmp_path / "run", updates=2, objective=objective, batch_size=4)
    config = folder.config()
    work = Pretraining(config, toy_buffer(), toy_buffer().image_space, None)
    before = {name: value.clone() for name, value in work.encoder.state_dict().items()}
    summary = pretrain(folder)
    assert summary["state"] == "finished" and summary["updates"] == 2
    after = load_file(folder.encoder_file)
    assert any((after[name] != value).any() for name, value in before.items() if "0.weight" in name), "first convolution"
    row = list(csv.DictReader(folder.progress_file.open()))[-1]
    assert row["update"] == "2" and np.isfinite(float(row["loss"])) and float(row["grad_norm"]) > 0


def test_contrast_gets_better(data, tmp_path):
    folder = begin(data, tmp_path / "run", updates=150, log_every=30, checkpoint_every=1000, batch_size=32)
    pretrain(folder)
    loss = [float(row["loss"]) for row in csv.DictReader(folder.progress_file.open())]
    accuracy = [float(row["accuracy"]) for row in csv.DictReader(folder.progress_file.open())]
    assert len(loss) == 5 and loss[-1] < 0.7 * loss[0] and accuracy[-1] > 0.3 > 3 / 32


def test_a_stopped_one_goes_on_bitwise(data, tmp_path):
    """After update 5, which is no multiple of anything."""
    whole = begin(data, tmp_path / "whole", objective="curl")
    pretrain(whole)
    folder = begin(data, tmp_path / "stopped", objective="curl")
    stop, seen = StopRequest(), []

    def stage(what, steps):
        def advance():
            seen.append(1)
            if len(seen) == 5:
                stop.note(signal.SIGTERM)

        return advance

    with pytest.raises(Stopped):
        pretrain(folder, stop, stage)
    assert folder.summary()["updates"] == 5 and folder.summary()["state"] == "running"
    assert folder.encoder_file.is_file(), "what there is can be used"
    summary = pretrain(folder)
    assert summary["updates"] == 12
    first, second = load_file(whole.encoder_file), load_file(folder.encoder_file)
    assert all(th.equal(value, second[name]) for name, value in first.items())
    states = [th.load(f.checkpoint_file, weights_only=True)["attachment"]["objective"] for f in (whole, folder)]
    assert all(th.equal(value, states[1][name]) for name, value in states[0].items() if isinstance(value, th.Tensor))
    assert [row["update"] for row in csv.DictReader(folder.progress_file.open())] == ["3", "4", "5", "6", "8", "9", "12"]
    assert pretrain(folder) == folder.summary(), "finished: nothing more is done"


def test_seeds(data, tmp_path):
    made = []
    for i, seed in enumerate((1, 1, 2)):
        folder = begin(data, tmp_path / str(i), updates=2, seed=seed)
        th.rand(i)  # the global stream does not matter
        pretrain(folder)
        made.append(load_file(folder.encoder_file))
    assert all(th.equal(value, made[1][name]) for name, value in made[0].items())
    assert any((value != made[2][name]).any() for name, value in made[0].items())


def test_crops_fit_the_encoder(tmp_path):
    """The buffer's own augmentation is taken, and the encoder is built for the size that it makes."""
    folder = begin(saved(tmp_path / "b.pkl", augment=RandomCrop(28)), tmp_path / "run", updates=1)
    config = folder.config()
    assert config["encoder"]["kwargs"]["crop"] == 28 and config["augment"]["used"] == repr(RandomCrop(28))
    pretrain(folder)
    other = begin(saved(tmp_path / "b.pkl"), tmp_path / "other", augment="random_crop", settings={"augment.size": "24"})
    assert other.config()["encoder"]["kwargs"]["crop"] == 24
    plain = begin(saved(tmp_path / "c.pkl", augment=None), tmp_path / "plain")
    assert plain.config()["augment"]["used"] == "RandomShift(pad=4)" and "crop" not in plain.config()["encoder"]["kwargs"]
    assert {"random_shift", "random_crop", "color_jitter", "horizontal_flip"} <= set(AUGMENTATIONS)


def test_settings(data, tmp_path):
    folder = begin(data, tmp_path / "run", settings={"objective.keys": "online", "encoder.head": "tanh"})
    config = folder.config()
    assert config["objective"]["kwargs"] == {"keys": "online"} and config["encoder"]["kwargs"]["head"] == "tanh"
    assert config["encoder"]["kwargs"]["features_dim"] == 12 and config["pretrain"]["transitions"] == 200


@pytest.mark.parametrize(
    "kwargs, words",
    [
        (dict(objective="crul"), "no objective 'crul'. Nearest: curl"),
        (dict(encoder="pixl"), "no encoder 'pixl'. Nearest: pixel"),
        (dict(augment="random_shfit"), "no augmentation 'random_shfit'. Nearest: random_shift"),
        (dict(augment="none"), "leaves it nothing to do"),
        (dict(augment="random_crop", settings={"augment.size": "99"}), "augment: "),
        (dict(settings={"objective.taau": "1"}), "CURL takes no 'taau'. Nearest: objective.tau"),
        (dict(settings={"objective.tau": "7"}), "lies in \\(0, 1\\]"),
        (dict(settings={"objective.keys": "target"}), "no target encoder"),
        (dict(settings={"encoder.filtres": "7"}), "Nearest: encoder.filters"),
        (dict(settings={"encoder.observation_space": "7"}), "takes no 'observation_space'"),
        (dict(settings={"encoder.filters": "[3"}), "neither a list"),
        (dict(settings={"augment.pad": "3"}), "--augment random_shift"),
        (dict(settings={"filters": "3"}), "settings are objective"),
        (dict(batch_size=1000), "200 transitions hold no 1000 views"),
        (dict(device="cuda:97"), "cpu always works"),
    ],
)
def test_wrong_configurations(kwargs, words, data, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        begin(data, tmp_path / "run", **kwargs)
    assert type(caught.value).__module__.startswith("crl."), "the command line says it in words"
    assert not (tmp_path / "run").exists()


def test_folders(data, tmp_path):
    folder = begin(data, tmp_path / "run")
    assert is_pretraining(folder.path) and not is_pretraining(tmp_path) and not is_pretraining(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="holds a run already"):
        begin(data, tmp_path / "run")
    with pytest.raises(RunFolderError, match="no config.yaml"):
        PretrainFolder(tmp_path).config()
    with pytest.raises(RunFolderError, match="lacks run, env"):
        RunFolder(folder.path).config()


def test_other_data_and_damaged_checkpoints(tmp_path):
    path = saved(tmp_path / "buffer.pkl")
    folder = begin(path, tmp_path / "run", updates=4)
    saved(tmp_path / "buffer.pkl", episodes=3)
    with pytest.raises(DataError, match="holds 150 transitions, and held 200"):
        pretrain(folder)
    saved(tmp_path / "buffer.pkl")
    folder.checkpoint_file.write_bytes(b"half a file")
    with pytest.raises(RunError, match="is damaged"):
        pretrain(folder)


def test_a_loss_that_is_no_number(data, tmp_path, monkeypatch):
    folder = begin(data, tmp_path / "run", learning_rate=1e12, updates=40)
    with pytest.raises(RunError, match="lower learning_rate"):
        pretrain(folder)
    assert folder.summary()["state"] == "failed"


def test_an_objective_that_needs_discrete_or_continuous_actions(tmp_path):
    for discrete in (False, True):
        folder = begin(
            saved(tmp_path / f"{discrete}.pkl", discrete=discrete), tmp_path / str(discrete), objective="atc", updates=1
        )
        assert pretrain(folder)["updates"] == 1
    assert issubclass(PartError, ValueError)


def test_command_line(tmp_path):
    """From a run, stopped by a signal, resumed; and wrong usage."""
    assert crl(*arguments(tmp_path / "run", steps=60)).returncode == 0
    small = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "pretrained"
    args = [
        "pretrain",
        tmp_path / "run",
        "--out",
        out,
        "--batch-size",
        "8",
        "--checkpoint-every",
        "5",
        "--threads",
        "1",
        *small,
    ]
    process = start(*map(str, args), "--updates", "100000")
    wait_for(out / "encoder.safetensors", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130 and f"crl resume {out}" in process.stderr.read()
    done = json.loads((out / "summary.json").read_text())["updates"]
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("updates: 100000", f"updates: {done + 10}"))
    result = crl("resume", out)
    assert result.returncode == 0 and "pre-training (10)" in result.stderr and f"after {done + 10} updates" in result.stdout
    result = crl("resume", out)
    assert result.returncode == 0 and "is finished" in result.stdout
    for wrong, words in {
        ("pretrain", "x", "--updates", "0"): "--updates 0: at least 1",
        ("pretrain", "x", "--batch-size", "1"): "--batch-size 1: at least 2",
        ("pretrain", "x", "--learning-rate", "0"): "--learning-rate 0.0: more than 0",
        ("pretrain", "x", "--set", "tau"): "write field=value",
        ("pretrain", "x", "--out", "/dev/null/x"): "/dev/null is a file",
        ("pretrain", "x", "--device", "tpu"): "--device tpu",
    }.items():
        result = crl(*wrong, cwd=tmp_path)
        assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
