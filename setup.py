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
"""The Python half of the ROS package: what colcon and pip install, and under which names."""

from glob import glob

from setuptools import find_packages, setup

CLOUD = [
    'cryptography>=42',
    'grpcio>=1.51.1',
    'grpcio-health-checking>=1.51.1',
    'grpcio-reflection>=1.51.1',
    'matplotlib>=3.5',
    'numpy>=1.23,<3',
    'onnxruntime>=1.17',
    'opencv-python-headless>=4.6,<5',
    'prometheus-client>=0.17',
    'protobuf>=4.21.12,<8',
    'pyyaml>=5.4',
    'tqdm>=4.60',
]
# Engines besides the default one.
TORCH = [*CLOUD, 'safetensors>=0.4', 'torch>=2.5']
RAY = [*CLOUD, 'ray[serve]>=2.60']
BAGS = ['rosbags>=0.10']
TRAIN = [
    *CLOUD, 'jinja2>=3', 'onnx>=1.15', 'onnxscript>=0.1', 'optuna>=4.2', 'safetensors>=0.4',
    'scipy>=1.9', 'torch>=2.5',
]

setup(
    name='ferros',
    version='0.1.0',
    description='Facial expression recognition split between a robot and a server.',
    maintainer='The ferros developers',
    maintainer_email='maintainers@ferros.example.org',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(
        include=['ferros', 'ferros.*', 'ferros_proto', 'cloud_server', 'cloud_server.*']),
    package_data={
        'cloud_server': [
            'training/*.j2', 'weights/*/*.onnx', 'weights/*/*.json', 'weights/*/*.md',
            'weights/*/*.safetensors', 'weights/*/*.yaml', 'weights/*/LICENSE'],
        'ferros': ['models/*'],
        'ferros_proto': ['*.pyi'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/ferros']),
        ('share/ferros', ['package.xml']),
        ('share/ferros/launch', sorted(glob('launch/*.py'))),
        ('share/ferros/config', sorted(glob('config/*.*'))),
        ('share/ferros/worlds', sorted(glob('worlds/*.sdf'))),
        ('share/ferros/worlds/textures', sorted(glob('worlds/textures/*.png'))),
    ],
    # What the robot half needs comes from package.xml through rosdep, never from pip.
    install_requires=['setuptools'],
    extras_require={
        'cloud': CLOUD, 'torch': TORCH, 'ray': RAY, 'train': TRAIN, 'bags': BAGS,
        'test': ['pytest', 'pytest-timeout']},
    zip_safe=True,
    entry_points={
        'console_scripts': [
            'bag_check = ferros.bag_check:main',
            'camera_player = ferros.camera_player:main',
            'comfort_behaviour = ferros.comfort_behaviour:main',
            'emotion_node = ferros.node:main',
            'ferros-cloud = cloud_server.__main__:main',
            'ferros-link-check = ferros.link_check:main',
            'link_check = ferros.link_check:main',
        ],
        # How `ferros-cloud predict` finds the robot's detector without importing the robot half.
        'ferros.face_source': ['default = ferros.faces:FaceSource'],
    },
)
