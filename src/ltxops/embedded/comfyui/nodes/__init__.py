"""What each node class does here: a function from inputs to outputs, in a table by class name.

Most nodes only work out sizes and seeds; pictures are described, and made while a file is written.
"""

from ltxops.embedded.comfyui.nodes import conditioning, images, latents, loaders, sampling, saving
from ltxops.embedded.comfyui.nodes.context import Node, Unsupported

NODES: dict[str, Node] = {
    **loaders.NODES,
    **conditioning.NODES,
    **latents.NODES,
    **sampling.NODES,
    **images.NODES,
    **saving.NODES,
}


def find_node(class_type: str) -> Node:
    """Return what a class does. Raises Unsupported for a class that is known but has no stand-in."""
    if class_type not in NODES:
        raise Unsupported(
            f"The embedded engine has no stand-in for {class_type}. "
            "Take it out of the workflow, or run it on a GPU host."
        )
    return NODES[class_type]
