"""The README's scripts run as they stand, only shorter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


def changed(text, pattern, replacement, times):
    text, n = re.subn(pattern, replacement, text)
    assert n == times, pattern
    return text


def run(text, folder):
    script = folder / "script.py"
    script.write_text(text + "\nprint('done')\n")
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=folder, timeout=280, check=False
    )
    assert result.stdout.strip().endswith("done"), result.stderr


def test_first_block(tmp_path):
    short = changed(BLOCKS[0], r"model\.learn\(3_000,", "model.learn(300,", 1)
    run(short + "\nassert model.num_timesteps == 300 and model.policy.encoder.features_dim == 50", tmp_path)


@pytest.mark.gl
def test_any_objective_on_any_algorithm(tmp_path):
    """PPO + ATC and DQN + SPR on Atari, TQC + CURL on DeepMind Control."""
    for extra in ("ale_py", "dm_control", "sb3_contrib"):
        pytest.importorskip(extra)
    (block,) = [block for block in BLOCKS if "# DQN + SPR" in block]
    short = changed(block, r"learn\(100_000,", "learn(110,", 3)
    # rollouts and learning that begin within those steps, on small batches
    short = changed(short, r'PPO\("CnnPolicy", pong', r"\g<0>, n_steps=8, batch_size=16, n_epochs=1", 1)
    short = changed(short, r"\*\*replay,", "**replay, learning_starts=104, batch_size=4,", 2)
    run(short.replace("100_000", "1_000") + "\nassert model._n_updates > 0", tmp_path)


def test_sub_goals(tmp_path):
    (block,) = [block for block in BLOCKS if "toy/chain" in block]
    short = changed(block, r"AchievementPhases\(AchievementDistillation\(\)", r"\g<0>, every=2, epochs=1", 1)
    short = changed(short, r"learn\(40_000,", "learn(1_024,", 1)
    acts = "\nassert phases.n_updates > 0 and score.episodes > 0 and model.predict(env.reset()[0])[0] is not None"
    run(short + acts, tmp_path)
    assert len((tmp_path / "chain.csv").read_text().splitlines()) > 1
