"""What can be trained: each file gives `Settings`, `open(settings, device)`, `load(run)`: experiment/task_door.py."""
