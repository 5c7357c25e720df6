from setuptools import find_packages, setup

NAME = "alam_piper"

setup(
    name=NAME,
    version="0.1.0",
    description="The AgileX Piper arm: driver with its real-time loop, and an emulator at the level of CAN frames.",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={"": ["*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "piper_node = alam_piper.start:piper_node",
            "piper_emulator = alam_piper.start:piper_emulator",
        ],
        "can.interface": ["alam_socket = alam_piper.can_io:SocketBus"],
    },
)
