"""The graph of a traced program as JSON: ATen operations by name, arguments as numbers or names of values."""

from mobconv.errors import BackendError


def dump(program):
    """Operations, inputs and outputs of a program. Raises BackendError for an argument that JSON cannot say."""
    from torch.utils._pytree import tree_leaves

    nodes = []
    for node in program.module.graph.nodes:
        if node.op == "call_function":
            nodes.append(
                {"name": node.name, "op": str(node.target), "args": _dump(node.args), "kw": _dump(node.kwargs)}
            )
        elif node.op == "get_attr":
            nodes.append({"name": node.name, "tensor": node.target})
        elif node.op == "output":
            results = [leaf.name for leaf in tree_leaves(node.args[0])]
    inputs = [node.name for node in program.module.graph.nodes if node.op == "placeholder"]
    edges = [[name, [*value.shape], str(value.dtype)] for name, value in program.example.items()]
    return {"nodes": nodes, "names": inputs, "inputs": edges, "results": results, "outputs": list(program.outputs)}


def run(graph, tensors, feeds):
    """Named tensors -> the graph's results in order. feeds: in the order of its inputs."""
    import torch

    values = dict(zip(graph["names"], feeds, strict=True))
    with torch.inference_mode():
        for node in graph["nodes"]:
            if "tensor" in node:
                values[node["name"]] = tensors[node["tensor"]]
                continue
            packet, overload = node["op"].removeprefix("aten.").split(".")
            operation = getattr(getattr(torch.ops.aten, packet), overload)
            values[node["name"]] = operation(*_load(node["args"], values), **_load(node["kw"], values))
    return [values[name] for name in graph["results"]]


def _dump(value):
    import torch

    if isinstance(value, torch.fx.Node):
        return {"value": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, dict):
        return {"items": {key: _dump(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_dump(item) for item in value]
    if value is None or isinstance(value, int | float | str):
        return value
    raise BackendError(f"toy files have no place for an argument of type {type(value).__name__}")


def _load(value, values):
    import torch

    if isinstance(value, list):
        return [_load(item, values) for item in value]
    if not isinstance(value, dict):
        return value
    if "value" in value:
        return values[value["value"]]
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    return {key: _load(item, values) for key, item in value["items"].items()}
