"""What the doctor finds."""

import re

import pytest

from crl import doctor
from crl.agents.recipes import resolve
from crl.compute import onednn_bf16
from crl.envs.opengl import no_opengl


def test_known_bad_pairs():
    bad = {"mujoco": "4.0.0", "dm-control": "1.0.50", "pandas": "3.1.1", "rliable": "1.2.0"}
    lines = doctor.bad_pairs(bad)
    assert len(lines) == 2 and "pip install 'mujoco<4'" in lines[0] and "pip install 'pandas<3'" in lines[1]
    assert doctor.bad_pairs({"mujoco": "3.17.0", "dm-control": "1.0.50", "pandas": "3.1.1"}) == []


def test_replay_memory():
    """100k transitions of 100x100 RGB: a frame each, and some for the ends of episodes; SB3 stores six."""
    line = doctor.replay_line(resolve("curl-sac", "dmc/cartpole-swingup"))
    total, plain = (float(number) for number in re.findall(r"([0-9.]+) GB", line)[:2])
    assert 3.0 <= total < 3.2 and plain == 18.0
    assert re.search(r"for 100000 transitions .*[0-9.]+ GB free", line)


def test_report(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "rendering_line", lambda: ("MUJOCO_GL=egl, llvmpipe, 40 frames/s at 84x84", True))
    monkeypatch.setattr(doctor, "bad_pairs", lambda installed: [])
    assert doctor.report(resolve("curl-sac", "toy/reach")) == 0
    text = capsys.readouterr().out
    for words in (
        r"torch [0-9]",
        r"stable-baselines3 2\.",
        r"device +\S",
        r"fp32 [0-9.]+ ms, bf16 [0-9.]+ ms" if onednn_bf16() else r"fp32 [0-9.]+ ms, no bf16 on this processor",
        r"replay +curl-sac",
    ):
        assert re.search(words, text), words
    assert text.splitlines()[-1] == "all well"


def test_problems_are_counted(capsys, monkeypatch):
    pytest.importorskip("dm_control", reason="the extra 'dmc' is not installed")
    monkeypatch.setattr(doctor, "precision_line", lambda: "")
    monkeypatch.setattr(doctor, "bad_pairs", lambda installed: ["pandas 3 with rliable 1"])

    def broken(*args):
        raise no_opengl(RuntimeError("no display"))

    monkeypatch.setattr("crl.envs.dmc.DMControl", broken)
    assert doctor.report(resolve("curl-sac", "toy/reach")) == 1
    text = capsys.readouterr().out
    assert "PROBLEM    pandas 3" in text and "apt-get install libegl1" in text and text.endswith("2 problem(s)\n")


@pytest.mark.gl
def test_rendering():
    pytest.importorskip("dm_control", reason="the extra 'dmc' is not installed")
    line, works = doctor.rendering_line()
    if not works:
        pytest.skip(line)
    assert re.fullmatch(r"MUJOCO_GL=[^,]*, .+, [0-9]+ frames/s at 84x84", line)
