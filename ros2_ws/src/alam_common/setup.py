from setuptools import find_packages, setup

NAME = "alam_common"

setup(
    name=NAME,
    version="0.1.0",
    description="Topics, QoS, parameter helpers, image conversion and time alignment shared by the nodes.",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={"": ["*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
)
