"""A small model of its own beside a large one, on the same input: an exit with its own trunk.

The small model answers when it is sure; else the input, or whatever of the large model is cheaper to send, goes on.
Which it is, and what it costs, is the planner's to say, as with every other exit.
"""

from __future__ import annotations

from collections.abc import Mapping

from splitnn.graph.graft import graft
from splitnn.graph.model import Model


def cascade(
    small: Model, large: Model, *, at: Mapping[str, str] | None = None, name: str = "small"
) -> tuple[Model, dict[str, str]]:
    """One model of both, and the tensors of their logits by exit, the small one's first; thresholds are for later.

    The small model reads the large one's input as it is (a resize belongs into the small model); ``at`` says which of
    the large one's tensors feeds each of its inputs where there are several, or where it is fed from within.

    Raises:
        ValueError: the small model's input is not as the large one has it, or one of them has several outputs.
    """
    if at is None:
        if len(small.graph.inputs) != 1 or len(large.graph.inputs) != 1:
            raise ValueError(
                f"say which tensors feed the small model's inputs {list(small.graph.inputs)}: "
                f"the large one reads {list(large.graph.inputs)}"
            )
        at = {small.graph.inputs[0]: large.graph.inputs[0]}
    for model in (small, large):
        if len(set(model.graph.outputs)) != 1:
            raise ValueError(f"a model of a cascade answers with one tensor, not {list(model.graph.outputs)}")
    both = graft(large, small, name=name, at=at)
    return both, {name: f"{name}.{small.graph.outputs[0]}", "large": large.graph.outputs[0]}
