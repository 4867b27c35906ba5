"""Floor 3: a model learns. Batches, losses, schedules and the one loop that all training runs through."""
