# Copyright 2026 The ferros developers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The robot half's parameters: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from ferros.types import Codec

# What tls_ca_file says instead of a path, for a server whose certificate a public CA signed.
SYSTEM_CAS = 'system'
_NAMESPACE = re.compile(r'(/[A-Za-z_][A-Za-z0-9_]*)+')


class Parameter(NamedTuple):
    """What a parameter means and which values it takes."""

    description: str
    # Both ends included; None where any value is taken.
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    # A value outside of these that means: not set.
    unset: float | None = None
    # Whether it may be changed while the node runs.
    live: bool = False


def _parameter(
    default: Any,
    description: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    unset: float | None = None,
    live: bool = False,
) -> Any:
    return field(
        default=default,
        metadata={'parameter': Parameter(description, minimum, maximum, choices, unset, live)},
    )


@dataclass(frozen=True)
class RobotConfig:
    """
    All parameters of the robot half; the field names are the ROS parameters' names.

    Raises ValueError at construction, naming the parameter, its value and what was expected.
    """

    server_address: str = _parameter(
        '127.0.0.1:50051', 'host:port of the ferros server', live=True
    )
    insecure: bool = _parameter(
        False,
        'allow an unencrypted connection to a server that is not on this machine: the face '
        'crops, and the token, can then be read on the way',
        live=True,
    )
    tls_ca_file: str = _parameter(
        '',
        'path of the PEM file of the CA that signed the certificate of the server, which turns '
        f'TLS on; {SYSTEM_CAS}: the CAs that gRPC brings; empty: the connection is not encrypted',
        live=True,
    )
    tls_cert_file: str = _parameter(
        '',
        'path of the PEM file of the certificate of this robot, for a server that wants one',
        live=True,
    )
    tls_key_file: str = _parameter(
        '', 'path of the PEM file of the private key of tls_cert_file', live=True
    )
    token_file: str = _parameter(
        '',
        'path of a file with the token to show the server, read at each attempt to connect; '
        'without TLS it goes to another machine only with insecure, and can be read on the way',
        live=True,
    )
    connect_timeout_ms: int = _parameter(
        5000, 'how long one attempt to reach the server may take', 100, 60000, live=True
    )
    robot_id: str = _parameter(
        '',
        'name of this robot for the server; empty: the one in tls_cert_file or behind the token, '
        'else the host name',
    )
    camera: str = _parameter('camera', 'name of the camera for the server')
    faces_from: str = _parameter(
        'camera',
        'camera: faces are looked for in the images of `image`; rep155: they are read from '
        'another node that publishes them under rep155_prefix',
        choices=('camera', 'rep155'),
    )
    image_transport: str = _parameter(
        'raw',
        'raw: sensor_msgs/Image on `image`; compressed: sensor_msgs/CompressedImage on '
        '`image/compressed`',
        choices=('raw', 'compressed'),
    )
    detector: str = _parameter(
        'haar',
        'haar: the Haar cascade of OpenCV; yunet: the YuNet network, needs detector_model',
        choices=('haar', 'yunet'),
    )
    detector_model: str = _parameter('', 'path of the YuNet model file (ONNX)')
    cascade_file: str = _parameter('', 'path of the Haar cascade; empty: where OpenCV has it')
    profile_cascade_file: str = _parameter(
        '', 'path of the Haar cascade for faces from the side; empty: where OpenCV has it'
    )
    detect_profiles: bool = _parameter(
        True, 'haar: look for faces from the side too', live=True
    )
    detect_every_n_frames: int = _parameter(
        10,
        'after how many images the whole image is to have been searched for new faces, between '
        'which those that are known are followed; fewer are searched where time is short',
        1,
        300,
        live=True,
    )
    keep_id_ms: int = _parameter(
        1500, 'how long a face that is not seen can return under its id', 0, 10000
    )
    primary_area_ratio: float = _parameter(
        1.2,
        'how many times as large as the primary face another one has to be, in area, to take over',
        1.0,
        10.0,
        live=True,
    )
    primary_take_over_ms: int = _parameter(
        500, 'for how long it has to be', 0, 10000, live=True
    )
    face_size_px: int = _parameter(
        0,
        'side of the square face crop that is sent; 0: as the link allows',
        12,
        224,
        unset=0,
        live=True,
    )
    frame_rate_fps: float = _parameter(
        0.0,
        'frames per second sent of each face; 0: as the link allows',
        0.1,
        60.0,
        unset=0.0,
        live=True,
    )
    codec: str = _parameter(
        'auto',
        'how a crop is compressed; auto: as the link allows',
        choices=('auto', 'jpeg', 'webp'),
        live=True,
    )
    quality: int = _parameter(
        0, "1 to 100 in the codec's own scale; 0: as the link allows", 1, 100, unset=0, live=True
    )
    accuracy_grid_file: str = _parameter(
        '',
        'path of the YAML file of operating points to steer by where the server names none; '
        'empty: the one that comes with ferros',
    )
    data_limit_kbit_per_s: float = _parameter(
        0.0,
        'what may be sent and received on average; 0: no limit',
        1.0,
        1e6,
        unset=0.0,
        live=True,
    )
    data_limit_mb_per_h: float = _parameter(
        0.0, 'the same in megabytes per hour; 0: no limit', 0.5, 1e6, unset=0.0, live=True
    )
    max_faces: int = _parameter(
        8, 'faces that are read; where there are more, the largest', 1, 64, live=True
    )
    publish_rate_hz: float = _parameter(
        10.0,
        'messages per second on `emotion` and `emotion/faces` at most',
        0.1,
        60.0,
        live=True,
    )
    max_age_ms: int = _parameter(
        1000,
        'a face whose newest answer is older than this, counted from the arrival of its image, '
        'is published as `unknown`',
        50,
        60000,
        live=True,
    )
    stale_after_ms: int = _parameter(
        210,
        "an answer that took longer than this beyond the path's smallest round trip is dropped: "
        'after a stall of the link it would be old news',
        50,
        60000,
        live=True,
    )
    min_confidence: float = _parameter(
        0.0,
        'a label that is less sure than this is published as `unknown`; 0: as the model says',
        0.01,
        1.0,
        unset=0.0,
        live=True,
    )
    fallback: bool = _parameter(
        True, 'read faces with the small model on the robot while the server does not answer'
    )
    fallback_model_folder: str = _parameter(
        '', 'folder of fallback.onnx and fallback.json; empty: those that come with ferros'
    )
    fallback_after_ms: int = _parameter(
        350,
        'how long after the last answer of the server the robot begins to answer itself; at '
        'least one and a half times the interval at which the face is sent',
        100,
        10000,
        live=True,
    )
    hand_back_after_ms: int = _parameter(
        1000,
        'for how long the server has to have answered again before it speaks',
        0,
        10000,
        live=True,
    )
    fallback_rate_hz: float = _parameter(
        5.0,
        'how often the robot reads each face itself, at most',
        0.1,
        30.0,
        live=True,
    )
    fallback_cpu_share: float = _parameter(
        0.25,
        'the share of one core that reading faces on the robot may take',
        0.01,
        1.0,
        live=True,
    )
    publish_rep155: bool = _parameter(
        False, 'publish the faces as REP-155 has it, for which hri_msgs has to be installed'
    )
    rep155_prefix: str = _parameter(
        '/humans', 'namespace of the topics of REP-155, absolute'
    )
    annotated_rate_hz: float = _parameter(
        10.0,
        'images per second on `emotion/annotated` at most, drawn while somebody listens',
        0.1,
        60.0,
        live=True,
    )
    trace_file: str = _parameter(
        '', 'path of a file that what the link does is written to, as JSON lines; empty: none'
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            check(item.name, getattr(self, item.name))
        host, _, port = self.server_address.rpartition(':')
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f'server_address is {self.server_address!r}, expected host:port')
        self._check_encryption()
        for name in ('robot_id', 'camera'):
            if len(getattr(self, name)) > 64:
                value = getattr(self, name)
                raise ValueError(f'{name} is {value!r}, expected 64 characters at most')
        if self.detector == 'yunet' and not self.detector_model:
            raise ValueError("detector is 'yunet', expected detector_model to name its ONNX file")
        self._check_fallback()
        self._check_rep155()

    def _check_fallback(self) -> None:
        if self.fallback and self.fallback_after_ms >= self.max_age_ms:
            raise ValueError(
                f'fallback_after_ms is {self.fallback_after_ms} and max_age_ms '
                f'{self.max_age_ms}, expected fallback_after_ms to be smaller: a face would be '
                '`unknown` before the robot reads it itself'
            )

    def _check_rep155(self) -> None:
        if not _NAMESPACE.fullmatch(self.rep155_prefix):
            raise ValueError(
                f'rep155_prefix is {self.rep155_prefix!r}, expected an absolute name such as '
                '/humans'
            )
        if self.publish_rep155 and self.faces_from == 'rep155':
            raise ValueError(
                "publish_rep155 is true and faces_from 'rep155', expected one of the two: the "
                'faces cannot both come from REP-155 topics and go there'
            )

    def _check_encryption(self) -> None:
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            given, missing = 'tls_cert_file', 'tls_key_file'
            if self.tls_key_file:
                given, missing = missing, given
            raise ValueError(
                f'{given} is {getattr(self, given)!r} without {missing}, expected both or none'
            )
        if self.tls_cert_file and not self.is_encrypted:
            raise ValueError(
                f'tls_cert_file is {self.tls_cert_file!r} without tls_ca_file, expected '
                f'tls_ca_file to name the CA of the server, or {SYSTEM_CAS!r}'
            )
        if not (self.insecure or self.is_encrypted or is_loopback(self.server_address)):
            raise ValueError(
                f'server_address is {self.server_address!r}, which is not this machine, and the '
                'connection would not be encrypted: set tls_ca_file to the CA of the server, or '
                'set insecure to true to allow that'
            )

    @property
    def is_encrypted(self) -> bool:
        """Tell whether TLS is used."""
        return bool(self.tls_ca_file)

    @property
    def is_proven(self) -> bool:
        """Tell whether a certificate or a token tells the server which robot this is."""
        return bool(self.tls_cert_file or self.token_file)

    @property
    def wire_codec(self) -> Codec | None:
        """Return the codec as the wire names it; None: it is not pinned."""
        return None if self.codec == 'auto' else Codec[self.codec.upper()]

    @property
    def data_limit_bytes_per_s(self) -> float:
        """Return the tighter of the two data limits; inf where neither is set."""
        limits = (self.data_limit_kbit_per_s * 125, self.data_limit_mb_per_h * 1e6 / 3600)
        return min((limit for limit in limits if limit > 0), default=math.inf)


def is_loopback(address: str) -> bool:
    """Tell whether host:port is on this machine."""
    host = address.rpartition(':')[0].strip('[]')
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # A name that merely looks like such an address may lead anywhere.
        return False


def parameter(name: str) -> Parameter:
    """Return what the parameter called name means; KeyError where there is none."""
    meanings: dict[str, Parameter] = {
        item.name: item.metadata['parameter'] for item in fields(RobotConfig)
    }
    return meanings[name]


def check(name: str, value: object) -> None:
    """Raise ValueError where value is not one that the parameter called name takes."""
    limits = parameter(name)
    expected = type(getattr(RobotConfig, name))
    if type(value) is not expected:
        raise ValueError(f'{name} is {value!r}, expected {expected.__name__}')
    if limits.choices and value not in limits.choices:
        raise ValueError(f'{name} is {value!r}, expected one of {", ".join(limits.choices)}')
    if limits.unset is not None and value == limits.unset:
        return
    # Written so that NaN is refused too.
    if (
        limits.minimum is not None
        and limits.maximum is not None
        and not limits.minimum <= value <= limits.maximum  # type: ignore[operator]
    ):
        unset = '' if limits.unset is None else f'{limits.unset:g} or '
        raise ValueError(
            f'{name} is {value!r}, expected {unset}{limits.minimum:g} to {limits.maximum:g}'
        )
