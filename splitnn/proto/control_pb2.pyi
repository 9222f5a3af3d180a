from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("name", "digest", "versions", "graph_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    GRAPH_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    versions: _containers.RepeatedScalarFieldContainer[str]
    graph_json: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., versions: _Optional[_Iterable[str]] = ..., graph_json: _Optional[str] = ...) -> None: ...

class GetProfileRequest(_message.Message):
    __slots__ = ("name", "version", "known_profile")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_PROFILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    known_profile: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., known_profile: _Optional[str] = ...) -> None: ...

class GetProfileResponse(_message.Message):
    __slots__ = ("profile_zstd", "queue_length", "slowdown", "utilisation", "digest", "profile_id", "exits")
    PROFILE_ZSTD_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    profile_zstd: bytes
    queue_length: int
    slowdown: float
    utilisation: float
    digest: str
    profile_id: str
    exits: ExitsAudited
    def __init__(self, profile_zstd: _Optional[bytes] = ..., queue_length: _Optional[int] = ..., slowdown: _Optional[float] = ..., utilisation: _Optional[float] = ..., digest: _Optional[str] = ..., profile_id: _Optional[str] = ..., exits: _Optional[_Union[ExitsAudited, _Mapping]] = ...) -> None: ...

class ExitsAudited(_message.Message):
    __slots__ = ("answered", "checked", "agreed")
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    answered: int
    checked: int
    agreed: int
    def __init__(self, answered: _Optional[int] = ..., checked: _Optional[int] = ..., agreed: _Optional[int] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...

class ProbeResponse(_message.Message):
    __slots__ = ("received_bytes", "received_at_s")
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_S_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    received_at_s: float
    def __init__(self, received_bytes: _Optional[int] = ..., received_at_s: _Optional[float] = ...) -> None: ...
