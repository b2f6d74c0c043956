"""Time, memory and the hardware they were measured on."""
