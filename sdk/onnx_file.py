from dataclasses import dataclass
from collections.abc import Mapping
import onnx
from klieg.errors import ExplainerFileError
@dataclass(frozen=True)
class TensorType:
    dtype: str
    shape: tuple
@dataclass(frozen=True)
class OnnxFacts:
    opset:int; producer:str; metadata:Mapping; inputs:Mapping; outputs:Mapping; node_count:int
def read_onnx(data):
    m=onnx.load_from_string(data)
    def t(v):
        tt=v.type.tensor_type
        return TensorType(str(onnx.helper.tensor_dtype_to_np_dtype(tt.elem_type)), tuple(d.dim_param or d.dim_value for d in tt.shape.dim))
    return OnnxFacts(18,"",{p.key:p.value for p in m.metadata_props},{v.name:t(v) for v in m.graph.input},{v.name:t(v) for v in m.graph.output},len(m.graph.node))
