"""Models: loading, learning, sampling, checkpoints. The only part of temper that imports torch.

The rest of temper sees `protocol` alone: five methods to learn, two to sample.
"""

from __future__ import annotations

import logging

# Where it is installed, peft imports it, and it warns of faster kernels on a hub that nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
