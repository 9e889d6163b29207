"""One step of the bias that balances the experts without a loss (report, section 2.1.2).

An expert that got more tokens than the mean becomes less likely by gamma, one that got fewer more::

    new[e] = bias[e] + gamma    E counts[e] < sum of counts        one fp32 sum
             bias[e] - gamma    E counts[e] > sum of counts
             bias[e]            E counts[e] = sum of counts        the same bits

The comparison is of whole numbers, in int64: a mean of fp32 would call an expert at the mean overloaded.
``counts`` are those of a whole step: of all micro-batches and all GPUs, added up before.

The bias is fp32 and nothing else.  Numbers of bf16 are 2^-8 apart just below 1, and 1 - 0.001 is 1
again: the updates would be lost.  Inf and NaN stay what they are.

Shapes: E experts.
"""

from __future__ import annotations

import torch


def bias_update(bias: torch.Tensor, counts: torch.Tensor, gamma: float = 1e-3) -> torch.Tensor:
    """Move each expert's bias by gamma against its load.

    bias: [E] fp32, contiguous; E from 1 to 1024.  It is not written.
    counts: [E] int32; rows of each expert in this step.
    gamma: the step, taken as fp32; 0 (the last 500 billion tokens of DeepSeek-V3) changes nothing.

    Returns the new bias, [E] fp32.
    """
    load = counts.long()
    sign = (load.sum() - load * load.numel()).sign()
    moved = bias + sign * bias.new_tensor(gamma)
    return torch.where(sign == 0, bias, moved)
