"""The README's first script runs as it stands, only shorter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_first_block(tmp_path):
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.S).group(1)
    short, n = re.subn(r"model\.learn\(3_000,", "model.learn(300,", block)
    assert n == 1
    script = tmp_path / "script.py"
    script.write_text(
        short + "\nassert model.num_timesteps == 300 and model.policy.encoder.features_dim == 50\nprint('done')\n"
    )
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=280, check=False
    )
    assert result.stdout.strip().endswith("done"), result.stderr


@pytest.mark.gl
def test_any_objective_on_any_algorithm(tmp_path):
    """PPO + ATC and DQN + SPR on Atari, TQC + CURL on DeepMind Control: as they stand, only shorter."""
    for extra in ("ale_py", "dm_control", "sb3_contrib"):
        pytest.importorskip(extra)
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "# DQN + SPR" in block]
    short, n = re.subn(r"learn\(100_000,", "learn(110,", block)
    assert n == 3
    # rollouts and learning that begin within those steps, on small batches
    short, n = re.subn(r'PPO\("CnnPolicy", pong', r"\g<0>, n_steps=8, batch_size=16, n_epochs=1", short)
    assert n == 1
    short, n = re.subn(r"\*\*replay,", "**replay, learning_starts=104, batch_size=4,", short)
    assert n == 2
    script = tmp_path / "script.py"
    script.write_text(short.replace("100_000", "1_000") + "\nassert model._n_updates > 0\nprint('done')\n")
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=280, check=False
    )
    assert result.stdout.strip().endswith("done"), result.stderr
