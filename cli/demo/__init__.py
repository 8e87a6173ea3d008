"""The main job, shown: lose a simulated GPU, keep working, get it back, and judge it all."""
