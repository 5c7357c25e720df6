"""The AgileX Piper arm: driver with its real-time loop, and an emulator at the level of CAN frames."""
