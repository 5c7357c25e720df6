"""RealSense, V4L2 and video-file cameras behind one interface: one lifecycle node a camera."""
