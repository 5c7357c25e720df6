"""A small `ros2 launch` and `ros2 run` for machines without a ROS installation: see README.md beside this file."""
