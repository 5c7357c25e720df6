from setuptools import find_packages, setup

NAME = "alam_sim"

setup(
    name=NAME,
    version="0.1.0",
    description="Simulated robots behind the robot interface: MetaWorld, and the Piper at a table.",
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
            "metaworld_node = alam_sim.start:metaworld_node",
            "piper_mujoco_node = alam_sim.start:piper_mujoco_node",
        ]
    },
)
