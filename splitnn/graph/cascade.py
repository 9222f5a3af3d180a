"""A small model of its own beside a large one, on the same input: an exit with its own trunk.

The small model answers when it is sure; else the input, or whatever of the large model is cheaper to send, goes on.
Which it is, and what it costs, is the planner's to say, as with every other exit.
"""

from __future__ import annotations

from splitnn.graph.graft import graft
from splitnn.graph.model import Model
from splitnn.graph.resize import behind_resize, resizes


def cascade(small: Model, large: Model, *, name: str = "small") -> tuple[Model, dict[str, str]]:
    """One model of both, and the tensors of their logits by exit, the small one's first; thresholds are for later.

    Both read the large one's input. Where the small one takes images of another size, uint8 (N, H, W, C), a resize
    (bilinear, antialiased) becomes part of it.

    Raises:
        ValueError: a model has several inputs or outputs, or the small one reads something else than the large one.
    """
    for model in (small, large):
        if len(model.graph.inputs) != 1 or len(set(model.graph.outputs)) != 1:
            raise ValueError(
                f"a model of a cascade reads one tensor and answers with one, not {list(model.graph.inputs)} and "
                f"{list(model.graph.outputs)}"
            )
    entry = large.graph.inputs[0]
    if resizes(large.graph.tensors[entry], small.graph.tensors[small.graph.inputs[0]]):
        small = behind_resize(small, large, name="model")
    both = graft(large, small, name=name, at={small.graph.inputs[0]: entry})
    return both, {name: f"{name}.{small.graph.outputs[0]}", "large": large.graph.outputs[0]}
