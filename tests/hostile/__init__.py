"""What the commands do when they are killed, told to stop, started twice, or when the disk refuses: ``make hostile``."""
