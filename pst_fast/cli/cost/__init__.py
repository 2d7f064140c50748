"""What a run will take: steps, arithmetic, disk, memory and time, told before any work."""
