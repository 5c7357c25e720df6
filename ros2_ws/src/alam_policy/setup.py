from setuptools import find_packages, setup

NAME = "alam_policy"

setup(
    name=NAME,
    version="0.1.0",
    description="Serves an exported policy bundle as a lifecycle node: observations in, action chunks out.",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={"": ["*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
    entry_points={"console_scripts": ["policy_node = alam_policy.start:policy_node"]},
)
