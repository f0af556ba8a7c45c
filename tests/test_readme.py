"""The README's first script runs as it stands, only shorter."""

import re
import subprocess
import sys
from pathlib import Path

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
