"""What the processor that runs the tests can do."""

import pytest

from crl.compute import onednn_bf16

needs_bf16 = pytest.mark.skipif(not onednn_bf16(), reason="torch has no bf16 kernels for this processor")
#: for tests of both
PRECISIONS = ["fp32", pytest.param("bf16", marks=needs_bf16)]
