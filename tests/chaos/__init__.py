"""Is it still true when links are cut and processes are killed? A recorded history, and a checker of it."""
