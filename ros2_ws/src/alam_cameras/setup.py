from setuptools import find_packages, setup

NAME = "alam_cameras"

setup(
    name=NAME,
    version="0.1.0",
    description="RealSense, V4L2 and video-file cameras behind one interface: one lifecycle node a camera.",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={"": ["*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
    entry_points={
        "console_scripts": ["camera_node = alam_cameras.start:camera_node"],
    },
)
