"""ONNX graphs in fewer bits: fp16 and bf16 for GPUs, int8 for CPUs. What is small and sensitive stays in float32."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alam_models.runtime.bundle import DATA

# Cosine to PyTorch in float32, of whole chunks, below which nothing is exported. bfloat16 rounds eight times as
# coarsely as float16.
PRECISIONS = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.995, "int8": 0.999}
INLINE_BYTES = 1_900_000_000  # of weights inside one file: protobuf ends at 2 GB
BLOCK = 128  # weights and activations that share a scale
HANDED_ON = ("key_", "value_")  # how what the prefix hands to the step is called


def convert(path: Path, precision: str, kept: set[str]) -> None:
    """The float32 graph at `path` becomes one of a precision of PRECISIONS with the same inputs and outputs, except
    that in fp16 and bf16 keys and values are float16 and bfloat16. kept: names of nodes that stay in float32."""
    if precision != "fp32":
        save({"fp16": to_fp16, "bf16": to_bf16, "int8": to_int8}[precision](onnx.load(path), kept), path)


def to_fp16(model: ModelProto, kept: set[str]) -> ModelProto:
    """Weights and activations in float16, but for sines, cosines and what they depend on: a phase of many turns needs
    more than 11 bits."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    ends = [end.name for end in (*model.graph.input, *model.graph.output) if not end.name.startswith(HANDED_ON)]
    return convert_float_to_float16(
        model,
        keep_io_types=ends,
        disable_shape_infer=True,  # the exporter wrote all shapes, and inferring them anew ends at 2 GB
        op_block_list=DEFAULT_OP_BLOCK_LIST,
        node_block_list=sorted(kept | phases(model)),
    )


def to_bf16(model: ModelProto, kept: set[str]) -> ModelProto:
    """As to_fp16 with bfloat16 in its place: the range of float32 in eight bits of precision."""
    return retyped(to_fp16(model, kept), TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rounded(model: ModelProto) -> ModelProto:
    """A graph of to_bf16 -> the same in float32, each value that was bfloat16 rounded to it: what it computes, for ONNX
    Runtime on a CPU, which has no bfloat16."""
    graph = model.graph
    ends = {end.name for end in (*graph.input, *graph.output)}
    half = {v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    for node in graph.node:
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.BFLOAT16:
            half.add(node.output[0])
    model = retyped(model, TensorProto.BFLOAT16, TensorProto.FLOAT)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in half:
                node.output[place], narrow = f"{name}_exact", f"{name}_narrow"
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [narrow], to=TensorProto.BFLOAT16))
                nodes.append(helper.make_node("Cast", [narrow], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    assert ends == {end.name for end in (*graph.input, *graph.output)}
    return model


def retyped(model: ModelProto, old: int, new: int) -> ModelProto:
    """The model with tensors of one floating-point type where it had another."""
    graph, numbers = model.graph, helper.tensor_dtype_to_np_dtype(new)

    def change(tensor: TensorProto) -> None:
        if tensor.data_type == old:
            values = numpy_helper.to_array(tensor).astype(numbers)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for tensor in graph.initializer:
        change(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == old:
            value.type.tensor_type.elem_type = new
    for node in graph.node:
        for attribute in node.attribute:
            change(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == old:
                attribute.i = new
    return model


def phases(model: ModelProto) -> set[str]:
    """-> names of the sines and cosines, and of all nodes that they depend on."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    queue = [node for node in model.graph.node if node.op_type in ("Sin", "Cos")]
    while queue:
        node = queue.pop()
        if node.name not in found:
            found.add(node.name)
            queue += [makers[name] for name in node.input if name in makers]
    return found


def to_int8(model: ModelProto, kept: set[str]) -> ModelProto:
    """Weights in 8 bits with a scale for each column, activations brought to 8 bits as they come, with one scale each:
    what CPUs multiply fastest. What comes out of a GELU has outliers that spoil one scale for all; those products have
    their weights in blocks instead, and activations with a scale a block, at the speed of float32."""
    held = logging.NullHandler()  # without one, this module and a warning of it set up the whole process's logging
    logging.getLogger().addHandler(held)
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    products = {node.name for node in model.graph.node if node.op_type == "MatMul"}
    after = after_gelu(model)
    blocks = MatMulNBitsQuantizer(
        model,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,
        nodes_to_exclude=sorted(products - after | kept),
        bits=8,
    )
    blocks.process()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "int8.onnx"
        quantize_dynamic(
            blocks.model.model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(kept),
            use_external_data_format=weights_size(blocks.model.model) > INLINE_BYTES,
            extra_options={"MatMulConstBOnly": True},
        )
        logging.getLogger().removeHandler(held)
        return onnx.load(path)


def after_gelu(model: ModelProto) -> set[str]:
    """-> names of the products whose input is a GELU, or one times something else."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def is_gelu(name: str) -> bool:
        return name in makers and makers[name].op_type == "Gelu"

    found = set()
    for node in (node for node in model.graph.node if node.op_type == "MatMul"):
        maker = makers.get(node.input[0])
        if is_gelu(node.input[0]) or (maker is not None and maker.op_type == "Mul" and any(map(is_gelu, maker.input))):
            found.add(node.name)
    return found


def save(model: ModelProto, path: Path) -> None:
    """Whole, with its weights in a file beside it where protobuf cannot hold them."""
    data = path.with_name(path.name + DATA)
    data.unlink(missing_ok=True)
    big = weights_size(model) > INLINE_BYTES
    onnx.save_model(model, path, save_as_external_data=big, location=data.name if big else None)


def weights_size(model: ModelProto) -> int:
    """-> bytes."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)
