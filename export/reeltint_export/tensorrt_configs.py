"""configs/tensorrt.pbtxt: the variant of a model's config.pbtxt that `tritonserver --model-config-name=tensorrt` takes.

Tensors and batch are those of config.pbtxt; what runs them is model.plan, an engine that `reeltint-export engines`
built on this host from the model.onnx beside it. Ensembles need no variant: Triton falls back to config.pbtxt.
"""

from collections.abc import Iterator, Mapping, Sequence

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""An optimization profile of an engine: smallest, best and largest shape of each input, batch included."""

INSTANCES = 2
"""Of a model on each GPU: while one computes, the other copies."""
QUEUE_DELAY_US = 1000
"""How long a request may wait for others to share its batch with."""


def tensorrt_config(config: str, profiles: Sequence[Profile]) -> str:
    """The variant of a model's config.pbtxt that serves its engine.

    A model that takes batches joins requests. It waits for more of them only when all its shapes are fixed: requests of
    another frame size cannot be joined. Each profile is warmed up, at one frame and at its best shape, before the
    server says that it is ready.

    Args:
        config: Text of config.pbtxt.
        profiles: Those of the engine, in its order.

    Raises:
        ValueError: A profile lacks an input, or does not reach the largest batch that the config promises.
    """
    parsed: model_config_pb2.ModelConfig = text_format.Parse(config, model_config_pb2.ModelConfig())
    inputs = {tensor.name: tensor for tensor in parsed.input}
    for number, profile in enumerate(profiles):
        if set(profile) != set(inputs):
            raise ValueError(f"{parsed.name}: profile {number} is of {sorted(profile)}, the model of {sorted(inputs)}")
        for name, (_, _, largest) in profile.items():
            if largest[0] < parsed.max_batch_size:
                raise ValueError(
                    f"{parsed.name}: profile {number} ends at a batch of {largest[0]} ({name!r}), "
                    f"the config promises {parsed.max_batch_size}"
                )
    dropped = ("instance_group", "parameters", "dynamic_batching")
    lines = [line for line in config.splitlines() if not line.startswith(dropped)]
    lines = ['platform: "tensorrt_plan"' if line.startswith("backend:") else line for line in lines]
    numbers = ", ".join(f'"{number}"' for number in range(len(profiles)))
    lines.append(f"instance_group [ {{ count: {INSTANCES} kind: KIND_GPU profile: [ {numbers} ] }} ]")
    if parsed.max_batch_size:
        fixed = all(-1 not in tensor.dims for tensor in parsed.input)
        delay = f" max_queue_delay_microseconds: {QUEUE_DELAY_US} " if fixed else " "
        lines.append(f"dynamic_batching {{{delay}}}")
    lines += _warm_up(parsed, profiles)
    return "\n".join(lines) + "\n"


def _warm_up(config: model_config_pb2.ModelConfig, profiles: Sequence[Profile]) -> Iterator[str]:
    lines: list[str] = []
    for number, profile in enumerate(profiles):
        best = {name: shapes[1] for name, shapes in profile.items()}
        samples = {f"profile {number}": best}
        if config.max_batch_size:
            samples[f"profile {number}, one frame"] = {name: (1, *shape[1:]) for name, shape in best.items()}
        for label, shapes in samples.items():
            batch = next(iter(shapes.values()))[0] if config.max_batch_size else 1
            lines += ["  {", f'    name: "{label}"', f"    batch_size: {batch}"]
            for tensor in config.input:
                shape = shapes[tensor.name][1:] if config.max_batch_size else shapes[tensor.name]
                kind = model_config_pb2.DataType.Name(tensor.data_type)
                dims = ", ".join(map(str, shape))
                # Random bytes are good frames, but no colour: as floats they are NaN and 1e38 too.
                data = "random_data" if tensor.data_type == model_config_pb2.TYPE_UINT8 else "zero_data"
                value = f"data_type: {kind} dims: [ {dims} ] {data}: true"
                lines.append(f'    inputs {{ key: "{tensor.name}" value {{ {value} }} }}')
            lines.append("  },")
    if lines:
        yield from ["model_warmup [", *lines[:-1], "  }", "]"]
