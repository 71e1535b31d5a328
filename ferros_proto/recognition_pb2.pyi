from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

BAD_IMAGE: Status
CODEC_UNSPECIFIED: Codec
DESCRIPTOR: _descriptor.FileDescriptor
DROPPED_STALE: Status
JPEG: Codec
LIMIT_EXCEEDED: Status
OK: Status
OVERLOADED: Status
STATUS_UNSPECIFIED: Status
UNAVAILABLE_MODEL: Status
WEBP: Codec

class Answer(_message.Message):
    __slots__ = ["arousal", "capture_monotonic_ns", "detail", "label", "probabilities", "sequence", "server_receive_monotonic_ns", "server_reply_monotonic_ns", "state_reset", "status", "suggested_frame_rate_fps", "valence"]
    AROUSAL_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SERVER_RECEIVE_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    SERVER_REPLY_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    STATE_RESET_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SUGGESTED_FRAME_RATE_FPS_FIELD_NUMBER: _ClassVar[int]
    VALENCE_FIELD_NUMBER: _ClassVar[int]
    arousal: float
    capture_monotonic_ns: int
    detail: str
    label: str
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    sequence: int
    server_receive_monotonic_ns: int
    server_reply_monotonic_ns: int
    state_reset: bool
    status: Status
    suggested_frame_rate_fps: float
    valence: float
    def __init__(self, sequence: _Optional[int] = ..., status: _Optional[_Union[Status, str]] = ..., capture_monotonic_ns: _Optional[int] = ..., server_receive_monotonic_ns: _Optional[int] = ..., server_reply_monotonic_ns: _Optional[int] = ..., label: _Optional[str] = ..., probabilities: _Optional[_Iterable[float]] = ..., valence: _Optional[float] = ..., arousal: _Optional[float] = ..., state_reset: bool = ..., suggested_frame_rate_fps: _Optional[float] = ..., detail: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ["device", "input_size_px", "labels", "limits", "model", "protocol_versions", "state_reset", "version"]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_RESET_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    device: str
    input_size_px: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    model: str
    protocol_versions: _containers.RepeatedScalarFieldContainer[int]
    state_reset: StateReset
    version: str
    def __init__(self, protocol_versions: _Optional[_Iterable[int]] = ..., model: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., input_size_px: _Optional[int] = ..., state_reset: _Optional[_Union[StateReset, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., device: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ["reconnect_after_ms", "sealed_state"]
    RECONNECT_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    SEALED_STATE_FIELD_NUMBER: _ClassVar[int]
    reconnect_after_ms: int
    sealed_state: bytes
    def __init__(self, sealed_state: _Optional[bytes] = ..., reconnect_after_ms: _Optional[int] = ...) -> None: ...

class FaceFrame(_message.Message):
    __slots__ = ["capture_monotonic_ns", "codec", "face_id", "image", "interval_ms", "sequence", "stamp_ns"]
    CAPTURE_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    FACE_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STAMP_NS_FIELD_NUMBER: _ClassVar[int]
    capture_monotonic_ns: int
    codec: Codec
    face_id: str
    image: bytes
    interval_ms: int
    sequence: int
    stamp_ns: int
    def __init__(self, sequence: _Optional[int] = ..., face_id: _Optional[str] = ..., stamp_ns: _Optional[int] = ..., capture_monotonic_ns: _Optional[int] = ..., interval_ms: _Optional[int] = ..., codec: _Optional[_Union[Codec, str]] = ..., image: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ["camera", "protocol_version", "resume_state", "robot_id"]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESUME_STATE_FIELD_NUMBER: _ClassVar[int]
    ROBOT_ID_FIELD_NUMBER: _ClassVar[int]
    camera: str
    protocol_version: int
    resume_state: bytes
    robot_id: str
    def __init__(self, protocol_version: _Optional[int] = ..., robot_id: _Optional[str] = ..., camera: _Optional[str] = ..., resume_state: _Optional[bytes] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ["max_faces", "max_frame_rate_fps", "max_image_bytes", "max_image_pixels"]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_RATE_FPS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    max_faces: int
    max_frame_rate_fps: float
    max_image_bytes: int
    max_image_pixels: int
    def __init__(self, max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_faces: _Optional[int] = ..., max_frame_rate_fps: _Optional[float] = ...) -> None: ...

class OperatingPoint(_message.Message):
    __slots__ = ["accuracy", "bytes_p50", "bytes_p95", "codec", "face_size_px", "frame_rate_fps", "quality"]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    BYTES_P50_FIELD_NUMBER: _ClassVar[int]
    BYTES_P95_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    FACE_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_FPS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    accuracy: float
    bytes_p50: int
    bytes_p95: int
    codec: Codec
    face_size_px: int
    frame_rate_fps: float
    quality: int
    def __init__(self, face_size_px: _Optional[int] = ..., frame_rate_fps: _Optional[float] = ..., codec: _Optional[_Union[Codec, str]] = ..., quality: _Optional[int] = ..., bytes_p50: _Optional[int] = ..., bytes_p95: _Optional[int] = ..., accuracy: _Optional[float] = ...) -> None: ...

class RecognizeRequest(_message.Message):
    __slots__ = ["frame", "hello"]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    frame: FaceFrame
    hello: Hello
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., frame: _Optional[_Union[FaceFrame, _Mapping]] = ...) -> None: ...

class RecognizeResponse(_message.Message):
    __slots__ = ["answer", "drain", "welcome"]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    answer: Answer
    drain: Drain
    welcome: Welcome
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ...) -> None: ...

class StateReset(_message.Message):
    __slots__ = ["intervals", "min_gap_ms"]
    INTERVALS_FIELD_NUMBER: _ClassVar[int]
    MIN_GAP_MS_FIELD_NUMBER: _ClassVar[int]
    intervals: float
    min_gap_ms: int
    def __init__(self, min_gap_ms: _Optional[int] = ..., intervals: _Optional[float] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ["accuracy_grid", "credits", "input_size_px", "labels", "limits", "model", "protocol_version", "resumed", "state_reset"]
    ACCURACY_GRID_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    STATE_RESET_FIELD_NUMBER: _ClassVar[int]
    accuracy_grid: _containers.RepeatedCompositeFieldContainer[OperatingPoint]
    credits: int
    input_size_px: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    model: str
    protocol_version: int
    resumed: bool
    state_reset: StateReset
    def __init__(self, protocol_version: _Optional[int] = ..., model: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., input_size_px: _Optional[int] = ..., state_reset: _Optional[_Union[StateReset, _Mapping]] = ..., credits: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., accuracy_grid: _Optional[_Iterable[_Union[OperatingPoint, _Mapping]]] = ..., resumed: bool = ...) -> None: ...

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
