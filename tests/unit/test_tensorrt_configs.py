"""The GPU variant of a config, read back by Triton's own definition of it."""

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from reeltint_export.tensorrt_configs import QUEUE_DELAY_US, Profile, tensorrt_config
from tritonclient.grpc import model_config_pb2

BATCHED = """# Frames and their colour to RGB.
name: "lab_merge"
backend: "onnxruntime"
max_batch_size: 32
input [
  { name: "frames" data_type: TYPE_UINT8 dims: [ -1, -1 ] },  # grey
  { name: "ab" data_type: TYPE_FP32 dims: [ 2, -1, -1 ] }  # a*, b*
]
output [
  { name: "rgb" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }  # sRGB
]
instance_group [ { count: 2 } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""
BUCKETS: list[Profile] = [
    {"frames": ((1, 1, 1), (8, 480, 854), (32, 576, 1024)), "ab": ((1, 2, 40, 40), (8, 2, 40, 40), (32, 2, 40, 40))},
    {"frames": ((1, 1, 1), (2, 1080, 1920), (32, 1200, 2048)), "ab": ((1, 2, 40, 40), (2, 2, 40, 40), (32, 2, 40, 40))},
]
FIXED = """name: "colorizer"
backend: "onnxruntime"
max_batch_size: 32
input [ { name: "lightness" data_type: TYPE_FP32 dims: [ 1, 160, 160 ] } ]
output [ { name: "ab" data_type: TYPE_FP32 dims: [ 2, 40, 40 ] } ]
version_policy: { specific: { versions: [ 3 ] } }
"""
SQUARE: Profile = {"lightness": ((1, 1, 160, 160), (8, 1, 160, 160), (32, 1, 160, 160))}
WHOLE = """name: "exemplar_colorizer"
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "lightness" data_type: TYPE_FP32 dims: [ -1, 1, 160, 160 ] },
        { name: "reference_keys" data_type: TYPE_FP32 dims: [ 64, 400 ] } ]
output [ { name: "ab" data_type: TYPE_FP32 dims: [ -1, 2, 40, 40 ] } ]
"""
STATE: Profile = {"lightness": SQUARE["lightness"], "reference_keys": ((64, 400),) * 3}


def _parsed(text: str) -> model_config_pb2.ModelConfig:
    config: model_config_pb2.ModelConfig = text_format.Parse(text, model_config_pb2.ModelConfig())
    return config


def test_only_what_runs_the_model_differs() -> None:
    before, after = _parsed(BATCHED), _parsed(tensorrt_config(BATCHED, BUCKETS))
    assert (after.platform, after.backend) == ("tensorrt_plan", "")
    for field in ("name", "max_batch_size", "input", "output"):
        assert getattr(after, field) == getattr(before, field)
    assert not after.parameters
    [group] = after.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(group.profile) == ["0", "1"]


def test_each_profile_is_warmed_up_at_its_own_shapes() -> None:
    warm_up = _parsed(tensorrt_config(BATCHED, BUCKETS)).model_warmup
    assert [(sample.batch_size, list(sample.inputs["frames"].dims)) for sample in warm_up] == [
        (8, [480, 854]),
        (1, [480, 854]),
        (2, [1080, 1920]),
        (1, [1080, 1920]),
    ]
    assert all(sample.inputs["frames"].data_type == model_config_pb2.TYPE_UINT8 for sample in warm_up)
    assert all(list(sample.inputs["ab"].dims) == [2, 40, 40] for sample in warm_up)
    assert all(sample.inputs["frames"].random_data for sample in warm_up)
    assert all(sample.inputs["ab"].zero_data for sample in warm_up)


def test_only_fixed_shapes_wait_for_company() -> None:
    fixed = _parsed(tensorrt_config(FIXED, [SQUARE]))
    assert fixed.dynamic_batching.max_queue_delay_microseconds == QUEUE_DELAY_US
    assert list(fixed.version_policy.specific.versions) == [3]
    free = _parsed(tensorrt_config(BATCHED, BUCKETS))
    assert free.HasField("dynamic_batching")
    assert free.dynamic_batching.max_queue_delay_microseconds == 0


def test_a_request_that_is_one_batch_is_not_joined() -> None:
    config = _parsed(tensorrt_config(WHOLE, [STATE]))
    assert not config.HasField("dynamic_batching")
    [sample] = config.model_warmup
    assert sample.batch_size == 1
    assert list(sample.inputs["lightness"].dims) == [8, 1, 160, 160]
    assert list(sample.inputs["reference_keys"].dims) == [64, 400]


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"lightness": ((1, 1, 160, 160), (8, 1, 160, 160), (16, 1, 160, 160))}, r"a batch of 16 .*promises 32"),
        ({"light": SQUARE["lightness"]}, r"profile 0 is of \['light'\], the model of \['lightness'\]"),
    ],
)
def test_a_profile_that_does_not_fit(profile: Profile, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tensorrt_config(FIXED, [profile])
