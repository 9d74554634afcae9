"""This computer: device, precision, threads, processes, signals and progress bars."""
