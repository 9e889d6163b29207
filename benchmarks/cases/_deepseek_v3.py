"""DeepSeek-V3's geometry, each number named, and the linear layers that follow from it.

Source: configs/config_671B.json of the DeepSeek-V3 repository's inference code, and section 4.2 of
the technical report (arXiv 2412.19437).
"""

from __future__ import annotations

HIDDEN = 7168  # dim
DENSE_INTERMEDIATE = 18432  # inter_dim
EXPERT_INTERMEDIATE = 2048  # moe_inter_dim
HEADS = 128  # n_heads
Q_LORA = 1536  # q_lora_rank
KV_LORA = 512  # kv_lora_rank
NOPE = 128  # qk_nope_head_dim
ROPE = 64  # qk_rope_head_dim
VALUE = 128  # v_head_dim

# Layer -> (N output rows, K input channels) of its weight; gate and up projections are fused.
LINEAR = {
    "q_a+kv_a": (Q_LORA + KV_LORA + ROPE, HIDDEN),
    "kv_a": (KV_LORA + ROPE, HIDDEN),
    "q_b": (HEADS * (NOPE + ROPE), Q_LORA),
    "kv_b": (HEADS * (NOPE + VALUE), KV_LORA),
    "o": (HIDDEN, HEADS * VALUE),
    "expert_gate+up": (2 * EXPERT_INTERMEDIATE, HIDDEN),
    "expert_down": (HIDDEN, EXPERT_INTERMEDIATE),
    "dense_gate+up": (2 * DENSE_INTERMEDIATE, HIDDEN),
    "dense_down": (HIDDEN, DENSE_INTERMEDIATE),
}

# Tokens of a step: one, a small and a full decode batch, a prefill or training sequence.
TOKENS = (1, 64, 128, 4096)
