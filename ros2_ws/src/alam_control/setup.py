from setuptools import find_packages, setup

NAME = "alam_control"

setup(
    name=NAME,
    version="0.1.0",
    description="Chunk buffer, splicing, interpolation and safety gate, used inside the node that owns an actuator.",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={"": ["*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
)
