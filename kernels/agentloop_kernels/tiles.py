"""Block sizes and warps for each kernel and each architecture, instead of autotuning at run time.

Pure functions of widths and compute capability: nothing is timed, so a cold start compiles each kernel once.
"""

from __future__ import annotations
